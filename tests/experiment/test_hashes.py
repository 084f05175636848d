"""Hashes say what is run: every bit of a model, and nothing of how a run is judged."""

from collections.abc import Callable

import torch

from fedsim.experiment.hashes import model_hash, scenario_hash
from fedsim.scenario import Scenario

Build = Callable[..., Scenario]


def test_a_model_is_its_names_and_bits_in_any_order() -> None:
    weights = {"a": torch.ones(2, 3), "b": torch.zeros(3)}
    own = model_hash(weights)
    assert own == model_hash(dict(reversed(weights.items())))
    assert own == model_hash({**weights, "a": torch.ones(3, 2).T})
    assert own != model_hash({**weights, "b": -torch.zeros(3)})
    assert own != model_hash({"a": weights["a"], "c": weights["b"]})


def test_a_scenario_is_what_it_runs_and_not_how_it_is_judged(scenario: Build) -> None:
    own = scenario_hash(scenario())
    assert own == scenario_hash(scenario())
    assert own == scenario_hash(scenario(policy={"max_recovered": 0.1}))
    assert own == scenario_hash(scenario(device="cpu"))
    assert own != scenario_hash(scenario().model_copy(update={"device": "cuda"}))
    assert own != scenario_hash(scenario(seed=99))
    assert own != scenario_hash(scenario(federation={"clients": 3}))
