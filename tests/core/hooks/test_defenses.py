"""A defense does what it overrides, at its place, and nothing else."""

from dataclasses import fields
from typing import get_args

import torch
from torch import nn

from fedsim.core import registry
from fedsim.core.hooks import Defense, HookContext
from fedsim.core.hooks.defenses import PLACES, Place
from fedsim.core.types import Batch, Config, MethodDescription, Tensors, Update


class Halving(Defense[Config]):
    def on_gradient(self, gradient: Tensors, here: HookContext) -> Tensors:
        return {name: own / 2 for name, own in gradient.items()}

    def adaptive_view(self) -> MethodDescription:
        return MethodDescription("halving")


def test_moments_that_are_not_overridden_leave_everything_as_it_is() -> None:
    own, here = Halving(Config()), HookContext(1, 0, 0, torch.Generator())
    batch, update, model = Batch(torch.ones(1, 2), torch.zeros(1)), Update("delta", {}, {}, 1, 0.0), nn.Linear(1, 1)
    assert own.on_batch(batch, here) is batch
    assert own.on_upload(update, here) is update
    assert own.prepare(model, torch.Generator()) is model
    assert own.loss(torch.ones(1), here) is None
    assert own.mechanism(None) is None  # type: ignore[arg-type]
    moments = ("prepare", "on_batch", "loss", "on_examples", "on_gradient", "on_upload")
    assert [moment for moment in moments if own.overrides(moment)] == ["on_gradient"]


def test_the_place_of_a_defense_is_the_folder_that_it_is_in() -> None:
    assert get_args(Place) == PLACES
    kinds = [method.make for method in registry.methods("defense", Defense).values()]
    places = {kind.__module__: kind.place for kind in kinds}  # type: ignore[attr-defined]
    assert all(module.split(".")[1] == place in PLACES for module, place in places.items()), places


def test_a_hook_context_begins_with_where_in_a_run_it_is() -> None:
    assert [field.name for field in fields(HookContext)][:4] == ["round", "client", "step", "generator"]
