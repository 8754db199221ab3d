"""Benchmarks that the field cites: ProteinGym, FLIP and PBC, ``python -m experiments.benchmark``."""
