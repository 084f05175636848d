"""Many runs of one scenario, each known by the hash of its resolved scenario, so that nothing is computed twice."""

from __future__ import annotations

from fedsim.sweep.plan import Planned, planned
from fedsim.sweep.results import COLUMNS, load
from fedsim.sweep.run import Outcome, sweep

__all__ = ["COLUMNS", "Outcome", "Planned", "load", "planned", "sweep"]
