"""Alignments of one protein with its relatives: reading, weighing, choosing and building them."""
