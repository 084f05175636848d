"""Registry of methods: a file with a decorator in the right folder is enough.

A method is a class or function with a pydantic config. It is imported at its first use; the arguments of fedsim's own
decorators are parsed from the files without an import. Third-party packages add methods by an entry point in a group:
``fedsim.attacks``, ``fedsim.distances``, ``fedsim.priors``, ``fedsim.attentions``, ``fedsim.defenses``,
``fedsim.components``, ``fedsim.aggregators``, ``fedsim.questions``, ``fedsim.metrics``, ``fedsim.tasks``,
``fedsim.datasets`` or ``fedsim.models``. The entry point names the module to import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedsim.core.registry.decorators import (
        aggregator,
        attack,
        attention,
        component,
        dataset,
        defense,
        distance,
        metric,
        model,
        prior,
        question,
        task,
    )
    from fedsim.core.registry.finding import entries, every_metric, find_entries, find_metrics, get, methods, temporary
    from fedsim.core.registry.method import KINDS, Entry, Kind, Method
    from fedsim.core.registry.user_functions import OpenConfig, check_marked, for_scenarios

__all__ = [
    "KINDS",
    "Entry",
    "Kind",
    "Method",
    "OpenConfig",
    "aggregator",
    "attack",
    "attention",
    "check_marked",
    "component",
    "dataset",
    "defense",
    "distance",
    "entries",
    "every_metric",
    "find_entries",
    "find_metrics",
    "for_scenarios",
    "get",
    "methods",
    "metric",
    "model",
    "prior",
    "question",
    "task",
    "temporary",
]

_HOMES = ("method", "finding", "user_functions", "decorators")  # modules that import torch come last

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import lazily, so that a list of methods needs no torch."""
        if name in __all__:
            modules = (importlib.import_module(f"{__name__}.{home}") for home in _HOMES)
            return next(getattr(module, name) for module in modules if hasattr(module, name))
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
