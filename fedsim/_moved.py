"""Old names of modules, which work for one version more: each import of one warns and says the new name.

An old name stands for the module itself, not for a copy, so its classes are the same objects.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MODULES = {
    "fedsim.checkpoints": "fedsim.core.checkpoints",
    "fedsim.engines": "fedsim.federation.engines",
    "fedsim.errors": "fedsim.core.errors",
    "fedsim.hooks": "fedsim.core.hooks",
    "fedsim.losses": "fedsim.core.losses",
    "fedsim.masks": "fedsim.core.masks",
    "fedsim.mods": "fedsim.federation.mods",
    "fedsim.observe": "fedsim.threat.observe",
    "fedsim.policy": "fedsim.record.policy",
    "fedsim.process": "fedsim.core.process",
    "fedsim.registry": "fedsim.core.registry",
    "fedsim.replay": "fedsim.threat.replay",
    "fedsim.secure_aggregation": "fedsim.privacy.secure_aggregation",
    "fedsim.seeding": "fedsim.core.seeding",
    "fedsim.store": "fedsim.record.store",
    "fedsim.types": "fedsim.core.types",
    "fedsim.vectors": "fedsim.core.vectors",
    "fedsim.world": "fedsim.scenario.world",
}
ATTRIBUTES = {
    "fedsim.experiment": {
        name: f"fedsim.experiment.runner:{name}"
        for name in ("Watcher", "guarantees", "model_hash", "run", "scenario_hash", "train")
    },
    "fedsim.sweep": {
        **{name: f"fedsim.experiment.sweep:{name}" for name in ("COLUMNS", "Outcome", "Planned", "load", "sweep")},
        "planned": "fedsim.experiment.sweep:plan_runs",
    },
}
"""What a module had that stands elsewhere now, as `fedsim.core.renamed.old_names` takes it."""


class _Finder(MetaPathFinder, Loader):
    """Finds modules by the names in `MODULES`, and what lies below them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if _new_name(fullname) else None

    def exec_module(self, module: ModuleType) -> None:
        new = _new_name(module.__name__)
        warnings.warn(_advice(module.__name__, new), DeprecationWarning, stacklevel=2)
        sys.modules[module.__name__] = importlib.import_module(new)


def install() -> None:
    """Let old names be found; before anything else, which would find copies of what lies below an old package."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _new_name(old: str) -> str:
    """Return the present name of a module, empty if its name is no old one."""
    first = ".".join(old.split(".")[:2])
    return MODULES[first] + old.removeprefix(first) if first in MODULES else ""


def _advice(old: str, new: str) -> str:
    return f"{old} is now {new}. Change the import: the old name works in this version and not in the next."
