"""``python -m experiments.torture --kills 200``: kill real runs at random moments and see what is lost."""

from experiments.torture.killed_runs import main

if __name__ == "__main__":
    raise SystemExit(main())
