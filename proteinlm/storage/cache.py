"""The directory for what can be made again."""

import os
from pathlib import Path


def default_cache() -> Path:
    """Where to keep what is slow to make, if nobody says where: ``$PROTEINLM_CACHE``, or the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("PROTEINLM_CACHE") or Path(base) / "proteinlm")
