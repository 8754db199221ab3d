"""The names of records as names of files."""

import hashlib

LONGEST = 200
"""Bytes of a name before its suffix: file systems take 255 in all."""


def file_name(name: str) -> str:
    """The name of a file, before its suffix, for the record `name`: ``_`` for ``/``, NUL and a dot that would hide it."""
    plain = name.replace("/", "_").replace("\0", "_")
    return shortened(f"_{plain[1:]}" if plain.startswith(".") else plain)


def shortened(name: str) -> str:
    """A name without ``/``, which ends in a digest of the whole if it is too long for a file system."""
    if len(name.encode()) <= LONGEST:
        return name
    return f"{name.encode()[:LONGEST].decode(errors='ignore')}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
