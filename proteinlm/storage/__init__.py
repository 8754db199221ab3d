"""Bytes on disk: written completely or not at all, sealed by checksums, read with bounds."""
