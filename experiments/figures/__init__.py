"""The figures of a sweep, made from its records and saved predictions alone. Imports no torch."""
