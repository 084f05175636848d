"""The plan of a sweep: all combinations of its values, without duplicates."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedsim.core import registry
from fedsim.core.errors import ScenarioError
from fedsim.experiment.runner import scenario_hash
from fedsim.scenario import Scenario, arms, expand_sweep, parse


@dataclass(frozen=True)
class Planned:
    """A run of a sweep.

    Attributes:
        digest: hash of the resolved scenario; the run's folder has this name.
        values: values set by the sweep, seed included.
        scenario: the resolved scenario, as JSON.
    """

    digest: str
    values: dict[str, Any]
    scenario: str

    @property
    def name(self) -> str:
        """The values as text."""
        return format_values(self.values)


def plan_runs(scenario: Scenario, source: str) -> list[Planned]:
    """Return every run, in the order of the file, seeds last, without duplicate scenarios.

    Raises:
        ScenarioError: a combination is invalid; the message names it.
    """
    runs: dict[str, Planned] = {}
    for values, raw in expand_sweep(scenario):
        try:
            single = parse(raw, source)
        except ScenarioError as error:
            values_in_words = ", ".join(f"{key} = {json.dumps(value)}" for key, value in values.items())
            raise ScenarioError(f"{error}\nThis is the run with {values_in_words}.") from error
        digest = scenario_hash(single)
        runs.setdefault(digest, Planned(digest, values, single.model_dump_json()))
    return list(runs.values())


def format_values(values: Mapping[str, Any]) -> str:
    """Return the values as text, with the last part of each key."""
    words = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
    return ", ".join(f"{key.rpartition('.')[2]} {word}" for key, word in words.items())


def lacks_control(runs: Sequence[Planned]) -> bool:
    """Return whether attacked updates are protected in every arm of every run, so that no attack has a control."""
    singles = [single for run in runs for _, single in arms(Scenario.model_validate_json(run.scenario))]
    attacked = [single for single in singles if single.attacks]
    return bool(attacked) and all(map(_is_protected, attacked))


def _is_protected(scenario: Scenario) -> bool:
    """Return whether a client has a defense, a component or active dropout, or the server sees only a sum.

    The dropout of a user's model is unknown before the model is built.
    """
    if scenario.defenses or scenario.components or scenario.threat.view == "sum":
        return True
    if ":" in scenario.model.name:
        return False
    config = registry.get("model", scenario.model.name).config.model_validate(scenario.model.settings)
    return bool(getattr(config, "dropout", 0.0))
