"""Real runs that are killed, cut and filled up, held against undisturbed ones."""
