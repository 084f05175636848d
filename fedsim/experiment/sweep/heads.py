"""Quick checks of both ends of a record: schema version, status, completeness."""

from __future__ import annotations

import os
import re
from pathlib import Path

from fedsim.core.json_schema import SCHEMA_VERSION
from fedsim.core.regular_files import open_regular

_START = re.compile(rb'^\{\s*"schema_version":\s*(\d+),\s*"status":\s*"(\w+)"')
_LENGTH = 128
_END = 16


def head(record: Path) -> tuple[int, str] | None:
    """Return (schema version, status), or None if the record is missing or has another beginning."""
    try:
        with open_regular(record) as file:
            start = _START.match(file.read(_LENGTH))
    except OSError:
        return None
    return (int(start[1]), start[2].decode()) if start else None


def is_whole(record: Path) -> bool:
    """Return whether a record ends with a closing brace on its own line, and so is not truncated."""
    try:
        with open_regular(record) as file:
            file.seek(-min(_END, file.seek(0, os.SEEK_END)), os.SEEK_END)
            return file.read().rstrip().endswith(b"\n}")
    except OSError:
        return False


def is_finished(record: Path) -> bool:
    """Return whether a run has finished with the current schema version, and its record is complete."""
    return head(record) == (SCHEMA_VERSION, "finished") and is_whole(record)
