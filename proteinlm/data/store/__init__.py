"""Proteins of any source as memory-mapped Arrow files, built once, verified, and replaced whole or not at all.

A store is ``<task>/<split>.arrow`` and ``manifest.json``. The files are uncompressed Arrow IPC and open as they are in
pandas, polars, DuckDB and `datasets`. Opening reads the manifest and file footers only.
"""

from proteinlm.data.store.building import ensure as ensure
from proteinlm.data.store.reader import Store as Store
from proteinlm.data.store.reader import file_of as file_of
from proteinlm.data.store.reader import open as open
