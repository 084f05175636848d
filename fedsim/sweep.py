"""`fedsim.sweep(...)` makes the runs of a sweep; see `fedsim.api.sweep`.

A module that is called, so that `from fedsim.sweep import load` works for one version more: `fedsim.experiment.sweep`
was here before.
"""

from __future__ import annotations

import importlib
from typing import Any

from fedsim import _moved
from fedsim.core.callable_modules import call_module


def _sweep(*args: Any, **kwargs: Any) -> Any:
    return importlib.import_module("fedsim.api").sweep(*args, **kwargs)


def __getattr__(name: str) -> Any:
    """Return what the old package had under this name."""
    return _moved.attribute("fedsim.sweep", name)


call_module(__name__, _sweep)
