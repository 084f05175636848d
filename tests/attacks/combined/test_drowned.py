"""Gradients above and below the noise, built by hand."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from attacks.combined._drowned import why_drowned
from fedsim.core.types import MethodDescription, Observation
from fedsim.core.types.effects import AddedNoise, Effect, PrivateNoise
from tests.federating import watched

SCALE = 0.1
Case = Callable[..., Observation]


@pytest.fixture
def noisy() -> Case:
    """Observe noise of a known scale, and a signal of rank one in a single tensor, in units of the largest noise."""

    observation, _, _ = watched()

    def build(
        strength: float, *effects: Effect, law: str = "gaussian", place: int = 0, seed: int = 5, **changes: Any
    ) -> Observation:
        generator = torch.Generator().manual_seed(seed)
        tensors = {name: SCALE * draw(tensor, law, generator) for name, tensor in observation.update.tensors.items()}
        name = list(tensors)[place]
        rows, columns = tensors[name].shape
        signal = torch.outer(torch.ones(rows) / math.sqrt(rows), torch.ones(columns) / math.sqrt(columns))
        tensors[name] = tensors[name] + strength * SCALE * (math.sqrt(rows) + math.sqrt(columns)) * signal
        known = MethodDescription("noise", effects or (AddedNoise(law, SCALE),))  # type: ignore[arg-type]
        update = replace(observation.update, tensors=tensors)
        return replace(observation, update=update, known_methods=(known,), **changes)

    return build


def draw(like: Tensor, law: str, generator: torch.Generator) -> Tensor:
    """Return noise of variance 1."""
    if law == "gaussian":
        return torch.randn(like.shape, generator=generator)
    halves = (torch.empty(like.shape).exponential_(math.sqrt(2.0), generator=generator) for _ in range(2))
    return next(halves) - next(halves)


@pytest.mark.parametrize(("law", "lost"), [("gaussian", 6), ("laplace", 4)])
@pytest.mark.parametrize("place", [0, -1])
def test_a_signal_larger_than_the_noise_always_counts_and_a_small_one_is_mostly_lost(
    noisy: Case, law: str, lost: int, place: int
) -> None:
    """The limits are so near to noise that some noise exceeds them, more often if its tails are heavy."""
    below, above = ([why_drowned(noisy(own, law=law, place=place, seed=n)) for n in range(10)] for own in (0.2, 1.5))
    reasons = [reason for reason in below if reason is not None]
    assert len(reasons) >= lost
    assert all("exceeds noise of the known standard deviation 0.1" in reason for reason in reasons)
    assert above == [None] * 10


def test_noise_that_may_be_computed_averaged_or_missed_never_ends_an_attack(noisy: Case) -> None:
    added = AddedNoise("gaussian", SCALE)
    assert why_drowned(noisy(0.0)) is not None
    assert why_drowned(noisy(0.0, added, PrivateNoise("gaussian", 1.0, generator="torch"))) is None
    assert why_drowned(noisy(0.0, added, PrivateNoise("gaussian", 1.0))) is not None
    assert why_drowned(noisy(0.0, replace(added, share=0.5))) is None
    assert why_drowned(noisy(0.0, replace(added, is_relative=True))) is None
    assert why_drowned(noisy(0.0, PrivateNoise("gaussian", 1.0))) is None
    assert why_drowned(noisy(0.0, local_steps=2)) is None
    assert why_drowned(noisy(0.0, earlier_observations=(noisy(0.0),))) is None
