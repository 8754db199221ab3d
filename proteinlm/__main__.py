"""``python -m proteinlm``: the same as ``proteinlm``."""

from proteinlm.cli import main

if __name__ == "__main__":
    main()
