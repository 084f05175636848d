"""Many runs of one scenario, each known by the hash of its resolved scenario, so that nothing is computed twice."""

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
    """Import what is asked for: a finished sweep is recognised without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fedsim.experiment.sweep' has no attribute '{name}'")
    return getattr(importlib.import_module(f"fedsim.experiment.sweep.{_HOMES[name]}"), name)
