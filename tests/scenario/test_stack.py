"""Hooks of a scenario in their two orders: that of the file, and that in which clients act."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedsim.core import registry
from fedsim.core.hooks import PLACES, Layer
from fedsim.core.types import Config, Tensors
from fedsim.scenario import Scenario
from fedsim.scenario.stack import HookSet, build_stack

Build = Callable[..., Scenario]
WRITTEN = ("gradient-noise", "clipping", "mixup", "pruning")


@pytest.fixture
def stack(scenario: Build) -> Callable[..., HookSet]:
    return lambda **tables: build_stack(scenario(**tables), F.cross_entropy)


def test_defenses_act_in_the_order_of_their_places_whatever_the_file_says(stack: Callable[..., HookSet]) -> None:
    own = stack(defenses=[{"name": name} for name in WRITTEN])
    assert [defense.name for defense in own.defenses_as_written] == [*WRITTEN]
    places = [PLACES.index(defense.place) for defense in own.defenses]
    assert places == sorted(places)
    assert {defense.name for defense in own.defenses} == {*WRITTEN}
    assert own.defenses[0].name == "mixup"


def test_components_are_found_by_what_they_do(stack: Callable[..., HookSet]) -> None:
    own = stack(components=[{"name": name} for name in ("cutmix", "fedprox", "nested-dropout", "dropout")])
    assert [c.name for c in own.augmentations] == ["cutmix"]
    assert [c.name for c in own.loss_terms] == ["fedprox"]
    assert [c.name for c in own.model_components] == ["nested-dropout", "dropout"]
    assert own.objectives == ()
    assert own.loss(1) is F.cross_entropy


def test_a_batch_is_read_by_augmentations_and_by_defenses_that_look_at_it(stack: Callable[..., HookSet]) -> None:
    own = stack(components=[{"name": "cutmix"}], defenses=[{"name": name} for name in ("mixup", "pruning")])
    assert [hook.name for hook in own.batch_readers()] == ["cutmix", "mixup"]


def test_an_objective_takes_the_place_of_the_loss_and_is_told_the_round(stack: Callable[..., HookSet]) -> None:
    own = stack(components=[{"name": "co-teaching"}])
    assert len(own.objectives) == 1
    assert own.loss(5).keywords == {"round_": 5}  # type: ignore[attr-defined]


def test_a_step_is_the_optimizers(stack: Callable[..., HookSet]) -> None:
    own = stack(federation={"algorithm": "fedavg", "optimizer": {"name": "sgd", "learning_rate": 0.5}})
    weights = {"w": torch.ones(2)}
    own.step(weights, {"w": torch.tensor([1.0, -2.0])}, {})
    assert weights["w"].tolist() == [0.5, 2.0]


class Halving(Layer[Config]):
    """Lets one parameter take half of its step."""

    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        return model

    def step_factors(self, parameters: Tensors) -> Tensors:
        return {"w": torch.tensor(0.5)}


def test_a_component_says_by_how_much_a_step_is_taken(stack: Callable[..., HookSet], own_methods: None) -> None:
    registry.component("halving", summary="halves")(Halving)
    own = stack(
        components=[{"name": "halving"}],
        federation={"algorithm": "fedavg", "optimizer": {"name": "sgd", "learning_rate": 0.5}},
    )
    weights = {"w": torch.ones(1), "other": torch.ones(1)}
    own.step(weights, {name: torch.ones(1) for name in weights}, {})
    assert (float(weights["w"]), float(weights["other"])) == (0.75, 0.5)


def test_a_rule_that_keeps_something_is_made_anew_for_every_run(stack: Callable[..., HookSet]) -> None:
    own: Any = stack(aggregation={"name": "median"})
    assert own.new_aggregator() is not own.new_aggregator()
    assert own.new_aggregator().name == "median"
