"""What both ends of a record tell: its schema version, how its run ended, and whether it is whole."""

from __future__ import annotations

import os
import re
from pathlib import Path

from fedsim.core.json_schema import SCHEMA_VERSION

_START = re.compile(rb'^\{\s*"schema_version":\s*(\d+),\s*"status":\s*"(\w+)"')
_LENGTH = 128
_END = 16


def head(record: Path) -> tuple[int, str] | None:
    """Return (schema version, status), or None where there is no record or it begins like none."""
    try:
        with record.open("rb") as file:
            start = _START.match(file.read(_LENGTH))
    except OSError:
        return None
    return (int(start[1]), start[2].decode()) if start else None


def is_whole(record: Path) -> bool:
    """Tell whether a record ends with the brace that closes it, alone in its line: it was not cut off."""
    try:
        with record.open("rb") as file:
            file.seek(-min(_END, file.seek(0, os.SEEK_END)), os.SEEK_END)
            return file.read().rstrip().endswith(b"\n}")
    except OSError:
        return False


def is_finished(record: Path) -> bool:
    """Tell whether a run was finished by a fedsim whose schema this one reads, and its record is whole."""
    return head(record) == (SCHEMA_VERSION, "finished") and is_whole(record)
