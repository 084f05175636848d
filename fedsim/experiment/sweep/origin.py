"""Whether the very same command finished a sweep before, told without loading what runs need.

Planning a thousand runs takes seconds, and so does importing torch. A sweep therefore notes what it was planned from:
the scenario file as it stood, the overrides, and the version of fedsim.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from fedsim import __version__
from fedsim.core.errors import ScenarioError
from fedsim.core.source import read_source
from fedsim.experiment.sweep.heads import is_finished

ORIGIN = "origin.json"


def origin_of(scenario: Path, overrides: Sequence[str]) -> str:
    """Return a hash of what a sweep is planned from; empty where the file cannot be read."""
    try:
        text = read_source(scenario)
    except ScenarioError:
        return ""
    origin = json.dumps([__version__, hashlib.sha256(text).hexdigest(), *overrides])
    return hashlib.sha256(origin.encode()).hexdigest()


def finished_before(folder: Path, origin: str) -> int | None:
    """Return the number of runs if the folder's sweep has this origin and every run is finished, else None."""
    try:
        noted = json.loads((folder / ORIGIN).read_bytes())
        records = [folder / "runs" / digest / "record.json" for digest in noted["runs"]]
        if noted["origin"] != origin or not records or not origin:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return len(records) if all(map(is_finished, records)) else None
