"""What a method makes public: effects that attacks match on by type, apart from settings for people."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import nn

from fedsim.core.types import MethodDescription, Observation
from fedsim.core.types.effects import AddedNoise, Clipped, Effect, Noise, SignsOnly


@dataclass(frozen=True)
class Folded(Effect):
    """An effect of somebody else's package."""

    times: int


def knowing(observation: Observation, *effects: Effect) -> Observation:
    return replace(
        observation, known_methods=(MethodDescription("none"), *(MethodDescription("any", (one,)) for one in effects))
    )


def test_effects_are_asked_for_by_type_over_all_that_is_public(watched: Callable[..., Any]) -> None:
    observation, _, _ = watched()
    assert observation.effects(Effect) == ()
    signs, law, noise = SignsOnly(), Noise("laplace"), AddedNoise("gaussian", 0.5)
    known = knowing(observation, signs, law, noise)
    assert known.effects(Effect) == (signs, law, noise)
    assert known.effects(Noise) == (law, noise)
    assert known.effects(AddedNoise) == (noise,)
    assert known.effects(Clipped) == ()


def test_settings_of_the_name_of_an_effects_field_are_no_effect(watched: Callable[..., Any]) -> None:
    observation, _, _ = watched()
    known = replace(observation, known_methods=(MethodDescription("any", settings={"norm": "BA", "signs": True}),))
    assert known.effects(Effect) == ()


def test_an_effect_that_fedsim_does_not_know_is_matched_by_who_does(watched: Callable[..., Any]) -> None:
    observation, _, _ = watched()
    assert [folded.times for folded in knowing(observation, SignsOnly(), Folded(3)).effects(Folded)] == [3]


@pytest.mark.parametrize("was_training", [True, False])
def test_a_working_copy_has_its_mode_and_type_and_leaves_the_model_as_it_is(
    watched: Callable[..., Any], was_training: bool
) -> None:
    observation, _, _ = watched()
    model = observation.model.train(was_training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plain = observation.working_copy()
    assert plain.training is was_training
    assert all(torch.equal(tensor, before[name]) for name, tensor in plain.state_dict().items())
    for mode, is_training in (("train", True), ("eval", False)):
        changed = observation.working_copy(mode, torch.float64)
        assert [module.training for module in changed.modules()] == [is_training] * len([*changed.modules()])
        assert all(tensor.dtype == torch.float64 for tensor in changed.parameters())
        with torch.no_grad():
            for tensor in changed.parameters():
                tensor.fill_(7.0)
    assert model.training is was_training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_working_copy_has_given_modules_in_place_of_those_of_a_name(watched: Callable[..., Any]) -> None:
    observation, _, _ = watched()
    name, old = next((name, module) for name, module in observation.model.named_modules() if "." in name or name)
    given = nn.Identity()
    assert observation.working_copy(replaced={name: given}).get_submodule(name) is given
    assert observation.model.get_submodule(name) is old
