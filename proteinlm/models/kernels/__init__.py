"""Functions in C for what PyTorch does slowly on a CPU, compiled on first use. They need no torch to be compiled."""
