"""From a command line to processes that work: configs, groups, threads, Slurm. Imports no torch."""
