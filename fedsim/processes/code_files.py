"""Folders of code without the data sets that packages bring: an isolated attack must not look its answers up."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_DATA = frozenset(
    (
        *(".csv", ".tsv", ".gz", ".bz2", ".xz", ".zip", ".tar", ".7z"),
        *(".npz", ".npy", ".pkl", ".pickle", ".joblib", ".parquet", ".feather", ".arrow", ".h5", ".hdf5", ".mat"),
        *(".arff", ".sqlite", ".db", ".dta", ".sav", ".xls", ".xlsx", ".data", ".dat", ".cor", ".jsonl"),
        *(".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"),
        *(".wav", ".mp3", ".flac", ".ogg"),
    )
)
_CODE = (".py", ".pyc", ".so", ".pyd")
# Names of folders in which only code is granted. Elsewhere packages read files of many suffixes when they are imported.
_FOLDERS_OF_DATA = frozenset(("tests", "test", "testing", "data", "datasets", "benchmarks", "examples"))
_METADATA = (".dist-info", ".egg-info")


def code_paths(folder: Path) -> tuple[str, ...]:
    """Return the fewest paths that hold the files below a folder, but no data sets.

    A file is data by its suffix; in folders of tests, data sets, benchmarks and examples, and below them, every file
    without a suffix of code is data. A folder with data and without code is left out as a whole, since data sets also
    have files of other suffixes. A symbolic link counts as its target, which is what the sandbox grants.
    """
    return _walk(str(folder), frozenset(), is_of_data=False).places


def standard_library(folder: Path) -> Iterator[str]:
    """Yield the parts of a folder of Python's own modules, without packages that were installed into it and tests."""
    yield from (
        entry.path for entry in _entries(str(folder)) if entry.name not in ("site-packages", "dist-packages", "test")
    )


def system_libraries(folder: Path) -> Iterator[str]:
    """Yield the entries of a folder of shared libraries, without Python's libraries."""
    yield from (entry.path for entry in _entries(str(folder)) if not entry.name.startswith("python"))


class _Walked(NamedTuple):
    """Content of a folder: whether it has data, whether it has code, and the paths without the data."""

    has_data: bool
    has_code: bool
    places: tuple[str, ...]


def _walk(folder: str, ancestors: frozenset[str], *, is_of_data: bool) -> _Walked:
    """Walk a folder; links to a folder in `ancestors`, the real paths of the folders around it, are left out."""
    is_of_data = is_of_data or os.path.basename(folder) in _FOLDERS_OF_DATA
    has_data = has_code = False
    kept: list[str] = []
    ancestors_here = ancestors | {os.path.realpath(folder)}
    for entry in _entries(folder):
        path = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
        if entry.is_dir():
            if path in ancestors_here:
                continue
            is_metadata = entry.name.endswith(_METADATA)
            content = (
                _Walked(False, False, (path,)) if is_metadata else _walk(path, ancestors_here, is_of_data=is_of_data)
            )
            has_data |= content.has_data
            has_code |= content.has_code
            kept += content.places
        elif _is_data(entry.name, path, is_of_data=is_of_data):
            has_data = True
        else:
            has_code |= entry.name.endswith(_CODE)
            kept.append(path)
    if not has_data:
        return _Walked(has_data, has_code, (folder,))
    return _Walked(has_data, has_code, tuple(kept) if has_code else ())


def _is_data(name: str, path: str, *, is_of_data: bool) -> bool:
    """Return whether a file is data, by its name or by the real path of a link."""
    names = (name, path)
    if is_of_data and not all(name.endswith(_CODE) for name in names):
        return True
    return any(os.path.splitext(name)[1].lower() in _DATA for name in names)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """Return the entries of a folder; empty if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []
