"""What a method makes public: effects that attacks match on by type, apart from settings for people."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

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
