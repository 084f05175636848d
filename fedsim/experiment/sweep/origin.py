"""Quick check whether the same command has finished a sweep before, without slow imports.

Planning a thousand runs takes seconds, and so does the import of torch. A sweep therefore stores a hash of its plan's
inputs: the content of the scenario file, the overrides, and the version of fedsim.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from fedsim import __version__
from fedsim.core.errors import ScenarioError
from fedsim.core.regular_files import read_regular
from fedsim.core.source import read_source
from fedsim.experiment.sweep.heads import is_finished

ORIGIN = "origin.json"


def origin_of(scenario: Path, overrides: Sequence[str]) -> str:
    """Return a hash of a plan's inputs; empty if the file cannot be read."""
    try:
        text = read_source(scenario)
    except ScenarioError:
        return ""
    origin = json.dumps([__version__, hashlib.sha256(text).hexdigest(), *overrides])
    return hashlib.sha256(origin.encode()).hexdigest()


def finished_before(folder: Path, origin: str) -> int | None:
    """Return the number of runs if the folder's sweep has this origin and every run has finished, else None."""
    try:
        noted = json.loads(read_regular(folder / ORIGIN))
        records = [folder / "runs" / digest / "record.json" for digest in noted["runs"]]
        if noted["origin"] != origin or not records or not origin:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return len(records) if all(map(is_finished, records)) else None
