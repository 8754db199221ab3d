"""``python -m experiments.table7 runs/table7-laptop-synthetic``: print the table of a sweep."""

from experiments.table7.table import main
from proteinlm.launch import entry

if __name__ == "__main__":
    entry.command(main)
