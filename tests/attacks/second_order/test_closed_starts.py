"""Inputs from the patches in a gradient."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks.second_order._closed_starts import closed_starts, input_space
from attacks.second_order._residual_chain import chain_of
from attacks.second_order._stage_facts import StageFacts, facts_of
from tests.attacks.second_order.residual import group, residual
from tests.attacks.second_order.solved import toy


def seen(
    *widths: int, norm: Any = group, activation: type = nn.SiLU, side: int = 4
) -> tuple[list[StageFacts], list[Tensor], dict[str, Tensor]]:
    """Stages of a network, their true inputs, and the gradient."""
    observation, truth = toy(residual(*widths, norm=norm, activation=activation), (1, side, side), 1, classes=10)
    facts = facts_of(observation, chain_of(observation))
    inputs = [truth.batches[0].inputs]
    for one in facts[:-1]:
        inputs.append(one.stage.close(one.stage.apply(one.stage.weights(), inputs[-1])))
    return list(facts), inputs, dict(observation.update.tensors)


def outside(basis: Tensor, inputs: Tensor) -> float:
    """Share of an input that does not lie in a space."""
    flat = inputs.flatten()
    return float((flat - (basis @ flat) @ basis).norm() / flat.norm())


def test_overlapping_patches_tell_an_input_up_to_a_factor() -> None:
    facts, inputs, received = seen(16, 16)
    basis = input_space(facts[1], received)
    assert len(basis) == 1
    assert outside(basis, inputs[1]) < 1e-6


@pytest.mark.parametrize("norm", [group, nn.BatchNorm2d])
def test_with_stride_two_an_input_lies_in_a_small_space(norm: type) -> None:
    facts, inputs, received = seen(8, 16, norm=norm)
    basis = input_space(facts[2], received)
    assert len(basis) < 0.5 * facts[2].unknowns
    assert outside(basis, inputs[2]) < 1e-6


def test_more_places_than_channels_tell_nothing() -> None:
    facts, _, received = seen(4, 4, side=8)
    assert input_space(facts[1], received) is None


def test_the_factor_is_the_one_that_is_judged_best() -> None:
    facts, inputs, received = seen(16, 16)
    generator = torch.Generator().manual_seed(0)
    (start,) = closed_starts(
        facts[1], received, generator, lambda guess: float((guess - inputs[1]).norm()), is_positive=False
    )
    assert float((start - inputs[1]).norm() / inputs[1].norm()) < 0.08  # factors are a ninth apart


def test_behind_relu_a_linear_programme_tells_the_input() -> None:
    facts, inputs, received = seen(8, 16, activation=nn.ReLU)
    generator = torch.Generator().manual_seed(0)
    starts = closed_starts(
        facts[2], received, generator, lambda guess: float((guess - inputs[2]).norm()), is_positive=True
    )
    errors = [float((start - inputs[2]).norm() / inputs[2].norm()) for start in starts]
    assert errors[0] < 0.08  # by the factor
    assert min(errors[1:]) > 2 * errors[0]  # of random points of the space
