"""What the first bytes of a record tell: its schema version and how its run ended. Needs nothing of the rest."""

from __future__ import annotations

import re
from pathlib import Path

from fedsim.schema import SCHEMA_VERSION

_START = re.compile(rb'^\{\s*"schema_version":\s*(\d+),\s*"status":\s*"(\w+)"')
_LENGTH = 128


def head(record: Path) -> tuple[int, str] | None:
    """Return (schema version, status), or None where there is no record or it begins like none."""
    try:
        with record.open("rb") as file:
            found = _START.match(file.read(_LENGTH))
    except OSError:
        return None
    return (int(found[1]), found[2].decode()) if found else None


def is_finished(record: Path) -> bool:
    """Tell whether a run was finished by a fedsim of this schema version."""
    return head(record) == (SCHEMA_VERSION, "finished")
