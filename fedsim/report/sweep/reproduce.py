"""What it takes to make the sweep again: the scenario as resolved, its hash, programs and machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import tomli_w

from fedsim.record import Environment
from fedsim.report.sweep.cells import Sweep


class Made(NamedTuple):
    """An environment, and how many records were made in it."""

    environment: Environment
    records: int


def environments(sweep: Sweep) -> list[Made]:
    """Return every environment, the most used first."""
    return [Made(Environment.model_validate_json(text), count) for text, count in sweep.environments.most_common()]


def toml(scenario: Mapping[str, Any]) -> str:
    """Return a scenario as TOML, which has no word for nothing: such keys are left out, and so take their default."""
    return tomli_w.dumps(_stated(scenario))


def _stated(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _stated(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, (list, tuple)):
        return [_stated(inner) for inner in value if inner is not None]
    return value
