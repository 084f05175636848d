"""Levels of pages: how a page marks the outcome of an attack. The state of a limit is a level by itself."""

from __future__ import annotations

from collections.abc import Mapping

from fedsim.record import Outcome
from fedsim.report.document import Level

LEVEL_OF: Mapping[Outcome, Level] = {
    "recovered": "recovered",
    "undecided": "undecided",
    "invalid": "caution",
    "withstood": "kept",
    "failed": "",
}
