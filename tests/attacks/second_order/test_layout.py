"""Where unknowns stand: every entry once, pixels first, and back again into examples and masks."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from attacks.second_order._layout import UnknownsLayout, masks_to_solve
from fedsim.core.types import Masks, Observation
from tests.attacks.second_order.solved import toy

NAN = torch.nan


@pytest.fixture
def observation() -> Observation:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Tanh(), nn.Dropout(0.25), nn.Linear(3, 4))
    return toy(model, (1, 2, 2), 2)[0]


def half_known() -> tuple[Masks, ...]:
    return ((torch.tensor([[1.0, NAN, 0.0], [NAN, NAN, 1.0]], dtype=torch.float64),),)


def test_pixels_come_first_and_then_the_unknown_entries_of_masks(observation: Observation) -> None:
    layout = UnknownsLayout(observation, half_known())
    assert (layout.pixels, layout.size) == (8, 11)
    values = torch.arange(11, dtype=torch.float64)
    (whole,) = layout.split(1)
    inputs, ((mask,),) = whole.unpack(values[whole.places], layout.shape)
    assert inputs.flatten().tolist() == list(range(8))
    assert mask.tolist() == [[1.0, 8.0, 0.0], [9.0, 10.0, 1.0]]


def test_parts_of_single_examples_hold_every_unknown_once(observation: Observation) -> None:
    layout = UnknownsLayout(observation, half_known())
    first, second = layout.split(2)
    assert [*first.places.tolist(), *second.places.tolist()] == [0, 1, 2, 3, 8, 4, 5, 6, 7, 9, 10]
    values = torch.arange(11, dtype=torch.float64)
    inputs, ((mask,),) = second.unpack(values[second.places], layout.shape)
    assert inputs.flatten().tolist() == [4.0, 5.0, 6.0, 7.0]
    assert mask.tolist() == [[9.0, 10.0, 1.0]]


def test_before_the_update_pixels_are_standardised_and_entries_kept_by_their_rate(observation: Observation) -> None:
    layout = UnknownsLayout(observation, half_known())
    assert layout.prior_mean().tolist() == [0.0] * 8 + [0.75] * 3
    assert layout.prior_precision().tolist() == pytest.approx([1.0] * 8 + [1.0 / (0.25 * 0.75)] * 3)
    start = layout.start(torch.Generator().manual_seed(0), 0.1)
    assert start[8:].tolist() == [0.75] * 3
    assert 0.0 < float(start[:8].abs().max()) < 1.0


def test_entries_stay_between_0_and_1_and_pixels_in_a_box(observation: Observation) -> None:
    layout = UnknownsLayout(observation, half_known())
    values = torch.full((11,), 7.0, dtype=torch.float64)
    box: tuple[Tensor, Tensor] = (torch.tensor(-2.0, dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64))
    assert layout.project(values, None).tolist() == [7.0] * 8 + [1.0] * 3
    assert layout.project(-values, box).tolist() == [-2.0] * 8 + [0.0] * 3


def test_columns_that_are_zero_for_the_batch_are_entries_that_are_known() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 60), nn.Tanh(), nn.Dropout(0.5), nn.Linear(60, 4))
    observation, truth = toy(model, (1, 2, 2), 2)
    ((found,),), (mask,) = masks_to_solve(observation), truth.masks[0]
    gone = ~mask.any(0)
    assert bool(gone.any())
    assert bool((found[:, gone] == 0.0).all())
    assert bool(found[:, ~gone].isnan().all())
    several = masks_to_solve(replace(observation, local_steps=3))
    assert [[bool(mask.isnan().all()) for mask in step] for step in several] == [[True]] * 3
    one, truth = toy(model, (1, 2, 2), 1)
    assert torch.equal(masks_to_solve(one)[0][0], truth.masks[0][0])
