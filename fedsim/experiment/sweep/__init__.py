"""Sweeps: many runs of a scenario, identified by the hash of the resolved scenario, so that none is repeated."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedsim.experiment.sweep.plan import Planned, plan_runs
    from fedsim.experiment.sweep.results import COLUMNS, columns, load
    from fedsim.experiment.sweep.run import Outcome, sweep

__all__ = ["COLUMNS", "Outcome", "Planned", "columns", "load", "plan_runs", "sweep"]

_HOMES = {
    **dict.fromkeys(("plan_runs", "Planned"), "plan"),
    **dict.fromkeys(("COLUMNS", "columns", "load"), "results"),
    **dict.fromkeys(("Outcome", "sweep"), "run"),
}


def __getattr__(name: str) -> Any:
    """Import lazily, so that a finished sweep is recognised without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fedsim.experiment.sweep' has no attribute '{name}'")
    return getattr(importlib.import_module(f"fedsim.experiment.sweep.{_HOMES[name]}"), name)
