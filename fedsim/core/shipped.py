"""Files that other packages ship."""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from pathlib import Path

from fedsim.core.errors import MissingExtra

_NEWS = "gensim==4.4.0"
_NO_WHEEL = (3, 14)  # the first Python for which this gensim has none; its source does not compile there


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
    return needed("gensim", "test/test_data/lee_background.cor", who, news_install())


def news_install() -> str:
    """Return the command that installs the news. Nothing of gensim is imported, so the wheel of any Python serves."""
    if sys.version_info < _NO_WHEEL:
        return f"pip install --no-deps {_NEWS}"
    place = sysconfig.get_path("purelib")
    return f"pip install --no-deps --only-binary :all: --python-version 3.13 --target '{place}' {_NEWS}"
