"""Files shipped in other packages."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from fedsim.core.errors import MissingExtra

NEWS_INSTALL = "pip install 'fedsim-privacy[news]'"  # gensim has no wheel for Python 3.14 yet
PHOTOGRAPHS_INSTALL = "pip install 'fedsim-privacy[photographs]'"


def find_package_file(package: str, file: str) -> Path | None:
    """Return the path of a file in a package, without importing the package, which is slow; None if missing."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / file
        if path.exists():
            return path
    return None


def require_package_file(package: str, file: str, owner: str, install: str) -> Path:
    """Return the path of a file in a package.

    Args:
        package: import name.
        file: relative path in the package.
        owner: the package and its content, for the message.
        install: installation command.

    Raises:
        MissingExtra: the file is missing.
    """
    path = find_package_file(package, file)
    if path is None:
        raise MissingExtra(owner, install)
    return path


def news_file() -> Path:
    """Return the file with the reports of `lee-news`, one per line.

    Raises:
        MissingExtra: gensim is not installed.
    """
    owner = "gensim, which holds the data set 'lee-news',"
    return require_package_file("gensim", "test/test_data/lee_background.cor", owner, NEWS_INSTALL)
