"""Sparse fits of the gradients of candidate sentences."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attacks.text.sentence_atoms import Atom, Fit, Sketch, fitted, pursue
from fedsim.core.types import Observation, Truth
from fedsim.scenario.world import World
from tests.attacks.text.texts import KNOWN

Watched = Callable[..., tuple[Observation, Truth, World]]


def atoms(count: int, seed: int) -> list[Atom]:
    gradients = torch.randn(count, 200, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return [Atom(torch.tensor([number]), 0, 0, gradient) for number, gradient in enumerate(gradients)]


@given(st.integers(1, 6), st.integers(0, 999))
def test_pursuit_finds_the_support_in_as_many_steps_as_there_are_sentences(batch: int, seed: int) -> None:
    dictionary = atoms(30, seed)
    true = torch.randperm(30, generator=torch.Generator().manual_seed(seed + 1))[:batch].tolist()
    target = torch.stack([dictionary[number].gradient for number in true]).mean(0)
    fit = Fit((), (), 1.0)
    for _ in range(batch):
        fit = pursue(dictionary, target, fit)
    assert set(fit.chosen) == set(true)
    assert fit.left < 1e-10
    assert all(weight == pytest.approx(1 / batch) for weight in fit.weights)


def test_weights_are_not_negative_and_a_repeated_sentence_has_twice_the_weight() -> None:
    dictionary = atoms(5, 0)
    target = (2 * dictionary[0].gradient + dictionary[1].gradient) / 3 - dictionary[2].gradient
    fit = fitted(dictionary, target, (0, 1, 2))
    assert min(fit.weights) == 0.0
    assert fit.weights[0] == pytest.approx(2 * fit.weights[1], rel=0.5)


def test_a_sketch_is_linear_and_keeps_inner_products_on_average(watched: Watched, written_text: dict[str, Any]) -> None:
    observation, _, _ = watched(**written_text, knows=KNOWN, federation={"batch_size": 1})
    one = observation.update.tensors
    other = {name: torch.randn(t.shape, generator=torch.Generator().manual_seed(1)) for name, t in one.items()}
    both = {name: one[name] + 2.0 * other[name] for name in one}
    norms: list[float] = []
    for seed in range(20):
        sketch = Sketch(observation, torch.Generator().manual_seed(seed))
        assert torch.allclose(sketch.of(both), sketch.of(one) + 2.0 * sketch.of(other), atol=1e-4)
        norms.append(float(sketch.of(other).square().sum()))
    true = sum(float(t.double().square().sum()) for t in other.values())
    assert sum(norms) / len(norms) == pytest.approx(true, rel=0.05)
