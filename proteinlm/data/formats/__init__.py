"""Readers of the field's file formats: FASTA, TAPE's LMDB and JSON, ProteinNet's text.

Every reader streams, takes the path and a function that is shown each raw byte of the file in order (for the hash and
the progress bar), and raises `InputError` naming file, record and position. Records count from 0, as TAPE's keys do;
lines and positions count from 1.
"""
