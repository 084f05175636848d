"""What holds of stages whatever the image."""

import pytest
import torch
from torch import nn

from attacks.second_order._residual_chain import chain_of
from attacks.second_order._stage_facts import facts_of
from fedsim.core.errors import NotApplicable
from tests.attacks.second_order.residual import group, residual
from tests.attacks.second_order.solved import toy


def test_equations_are_those_that_one_counts_by_hand() -> None:
    observation, _ = toy(residual(4, 4, 8), (1, 8, 8), 1, classes=10)
    stem, same, _, half = facts_of(observation, chain_of(observation))
    assert (stem.unknowns, stem.equations) == (64, 64 + 4 * 9)  # the stem reads 64 pixels; nine weights a channel
    assert (same.unknowns, same.equations) == (256, 256 + 4 * 4 * 9 + 256)  # the shortcut shows all of the input
    first, shortcut = 8 * 16 + 8 * 4 * 9, 4 * 16 + 8 * 4  # a shortcut of stride 2 reads a quarter of the places
    assert (half.unknowns, half.equations) == (256, first + shortcut)


@pytest.mark.parametrize("norm", [group, nn.BatchNorm2d])
def test_blocks_that_begin_with_a_norm_do_not_show_a_scale_and_batch_norm_no_constant(norm: type) -> None:
    observation, _ = toy(residual(4, 4, 8, norm=norm), (1, 8, 8), 1, classes=10)
    diagnostics = facts_of(observation, chain_of(observation))
    assert [one.blind.scales for one in diagnostics] == [1, 0, 0, 1]
    assert [one.blind.lattice for one in diagnostics] == [False, False, False, norm is not group]
    assert [one.centres for one in diagnostics] == [norm is not group] * 4


def test_group_norm_hides_a_scale_of_each_example_and_batch_norm_one_of_all() -> None:
    for norm, scales in ((group, 2), (nn.BatchNorm2d, 1)):
        observation, _ = toy(residual(4, 8, norm=norm), (1, 8, 8), 2, classes=10)
        assert facts_of(observation, chain_of(observation))[0].blind.scales == scales


def test_sizes_are_those_of_noise_pictures() -> None:
    observation, _ = toy(residual(4, 4), (1, 8, 8), 1, classes=10)
    image, hidden, _ = facts_of(observation, chain_of(observation))
    assert image.size == pytest.approx(1.0, abs=0.15)  # 512 squares of normal variables deviate by 0.06
    assert hidden.size == pytest.approx(0.355, abs=0.05)  # E silu(z)^2 of a normal variable
    assert hidden.returns == (1, 4, 8, 8)


def test_a_dropout_inside_a_block_is_refused() -> None:
    torch.manual_seed(0)
    model = residual(4, 4)
    block = model[3]
    block.activations[0] = nn.Sequential(nn.SiLU(), nn.Dropout(0.5))
    observation, _ = toy(model, (1, 8, 8), 1, classes=10)
    with pytest.raises(NotApplicable, match="has dropout inside its blocks"):
        facts_of(observation, chain_of(observation))
