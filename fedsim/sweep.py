"""`fedsim.sweep(...)` makes the runs of a sweep; see `fedsim.api.sweep`.

A module that is called, so that `from fedsim.sweep import load` works for one version more: `fedsim.experiment.sweep`
was here before.
"""

from __future__ import annotations

import importlib
from typing import Any

from fedsim import _moved
from fedsim.core.callable_modules import call_module
from fedsim.core.renamed import old_names


def _sweep(*args: Any, **kwargs: Any) -> Any:
    return importlib.import_module("fedsim.api").sweep(*args, **kwargs)


__getattr__ = old_names(__name__, _moved.ATTRIBUTES[__name__])

call_module(__name__, _sweep)
