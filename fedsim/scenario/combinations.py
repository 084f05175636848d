"""All combinations of the values in arms or sweeps."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fedsim.core.errors import ScenarioError
from fedsim.scenario.tables import Scenario
from fedsim.scenario.variations import Sweep

MOST = 10_000  # arms of a scenario, or runs of a sweep: larger numbers need over a minute


def expand(scenario: Scenario) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield (values, raw scenario) of every combination of the values in ``scenario.arms``.

    Raises:
        ScenarioError: there are too many combinations.
    """
    _check_count("arms", "arms", map(len, scenario.arms.values()))
    raw = scenario.model_dump(mode="json")
    for values in _combinations(scenario.arms):
        yield values, with_values(raw, values)


def expand_sweep(scenario: Scenario) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield (values, raw scenario) of every run of ``scenario.sweep``, seeds last; without a sweep the scenario itself.

    Raises:
        ScenarioError: there are too many combinations.
    """
    sweep = scenario.sweep or Sweep()
    _check_count("sweep", "runs", (*map(len, sweep.grid.values()), len(sweep.runs) or 1, len(sweep.seeds) or 1))
    raw = scenario.model_dump(mode="json", exclude={"sweep"})
    for values in _combinations(sweep.grid):
        for listed in sweep.runs or ({},):
            for seed in sweep.seeds or (scenario.seed,):
                filled = _fill(raw, sweep.grid, {**values, **listed})
                yield {**values, **listed, "seed": seed}, {**filled, "seed": seed}


def with_values(raw: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a raw scenario without `arms`, with an arm's values filled in by dotted key or group."""
    bare = {key: value for key, value in raw.items() if key != "arms"}
    return _fill(bare, raw.get("arms", {}), values)


def _check_count(table: str, noun: str, lengths: Iterable[int]) -> None:
    """Check the number of combinations before they are built."""
    count = math.prod(lengths)
    if count > MOST:
        raise ScenarioError(
            f"{table}: its values combine to {count:,} {noun}, expected at most {MOST:,}. Leave some out."
        )


def _combinations(declared: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for combination in itertools.product(*declared.values()):
        yield dict(zip(declared, combination, strict=True))


def _fill(raw: Mapping[str, Any], declared: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    filled = copy.deepcopy(dict(raw))
    for key, value in values.items():
        entry = declared.get(key)
        for place, setting in (entry[value] if isinstance(entry, dict) else {key: value}).items():
            set_value(filled, place.split("."), setting)
    return filled


def set_value(raw: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set the value at a path of nested tables and lists; missing tables are created."""
    *parents, last = path
    place: Any = raw
    for parent in parents:
        if isinstance(place, dict) and place.get(parent) is None:
            place[parent] = {}
        place = place[int(parent)] if isinstance(place, list) else place[parent]
    if isinstance(place, list):
        place[int(last)] = value
    else:
        place[last] = value
