"""Which proteins are related: alignments, a search, clusters, and leakage between splits."""
