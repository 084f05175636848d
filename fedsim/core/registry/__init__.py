"""Methods are discovered, never listed: a file with a decorator in the right folder is enough.

A method is a class or function with a pydantic config. Third-party packages add theirs by an entry
point in the group ``fedsim.attacks``, ``fedsim.defenses``, ``fedsim.components``, ``fedsim.aggregators``,
``fedsim.memberships``, ``fedsim.attributes``, ``fedsim.traces``, ``fedsim.questions``, ``fedsim.metrics``,
``fedsim.tasks``, ``fedsim.datasets`` or ``fedsim.models`` that names the module to import.
"""

from fedsim.core.registry.decorators import (
    aggregator,
    attack,
    attribute_attack,
    component,
    dataset,
    defense,
    membership,
    metric,
    model,
    question,
    task,
    trace_attack,
)
from fedsim.core.registry.finding import (
    check_marked,
    declared,
    every_metric,
    find,
    for_scenarios,
    get,
    methods,
    temporary,
)
from fedsim.core.registry.method import KINDS, Kind, Method, OpenConfig

__all__ = [
    "KINDS",
    "Kind",
    "Method",
    "OpenConfig",
    "aggregator",
    "attack",
    "attribute_attack",
    "check_marked",
    "component",
    "dataset",
    "declared",
    "defense",
    "every_metric",
    "find",
    "for_scenarios",
    "get",
    "membership",
    "methods",
    "metric",
    "model",
    "question",
    "task",
    "temporary",
    "trace_attack",
]
