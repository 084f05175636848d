"""Files that other packages ship."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from fedsim.core.errors import MissingExtra

NEWS_INSTALL = "pip install 'fedsim-privacy[news]'"  # gensim has no wheel for Python 3.14 yet
PHOTOGRAPHS_INSTALL = "pip install 'fedsim-privacy[photographs]'"


def shipped(package: str, file: str) -> Path | None:
    """Return a file that a package ships, without importing the package, which is slow; None where it is missing."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / file
        if path.exists():
            return path
    return None


def needed(package: str, file: str, who: str, install: str) -> Path:
    """Return a file that a package ships.

    Args:
        package: name to import.
        file: path below it.
        who: the package and what it holds, for the message.
        install: the command that gets it.

    Raises:
        MissingExtra: it is missing.
    """
    path = shipped(package, file)
    if path is None:
        raise MissingExtra(who, install)
    return path


def news_file() -> Path:
    """Return the file with the reports of `lee-news`, one a line.

    Raises:
        MissingExtra: gensim is not installed.
    """
    who = "gensim, which holds the data set 'lee-news',"
    return needed("gensim", "test/test_data/lee_background.cor", who, NEWS_INSTALL)
