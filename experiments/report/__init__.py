"""One self-contained page about a sweep, made from its records alone. Imports no torch."""
