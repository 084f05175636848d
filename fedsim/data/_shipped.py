"""Files that other packages ship."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from fedsim.core.errors import MissingExtra


def shipped(package: str, file: str) -> Path | None:
    """Return a file that a package ships, without importing the package, which is slow; None where it is missing."""
    found = importlib.util.find_spec(package)
    for folder in (found.submodule_search_locations or ()) if found else ():
        path = Path(folder) / file
        if path.exists():
            return path
    return None


def news_file() -> Path:
    """Return the file with the reports of `lee-news`, one a line.

    Raises:
        MissingExtra: gensim is not installed.
    """
    path = shipped("gensim", "test/test_data/lee_background.cor")
    if path is None:
        raise MissingExtra("gensim, which holds the data set 'lee-news',", "pip install --no-deps gensim==4.4.0")
    return path
