"""Masks, labels and output gradients of a dense network, from the inputs of its batch."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attacks.core.masks_by_layer import _infer_mask, _labels, _read_added, _split_at_widest_gap, peel
from fedsim.core import seeding
from fedsim.core.nets.masks import inject_masks
from tests.attacks.solving import hiding, toy


def dense(*sites: nn.Module) -> nn.Module:
    with seeding.isolate_randomness(3):
        return nn.Sequential(
            nn.Flatten(), nn.Linear(12, 24), nn.GELU(), sites[0], nn.Linear(24, 20), nn.GELU(), sites[1],
            nn.Linear(20, 4),
        )  # fmt: skip


@pytest.mark.parametrize("size", [1, 4])
def test_layer_by_layer_the_true_masks_labels_and_output_gradients_come_out(size: int) -> None:
    observation, truth = toy(dense(nn.Dropout(0.5), nn.Dropout(0.25)), (3, 2, 2), size)
    (batch,), (masks,) = truth.batches, truth.masks
    found = peel(observation, batch.inputs)
    assert all(torch.equal(own, mask) for own, mask in zip(found.masks, masks, strict=True))
    assert torch.equal(found.labels, batch.labels)
    with inject_masks(observation.sites, masks), torch.no_grad():
        outputs = observation.model(batch.inputs)
    expected = (outputs.softmax(1) - F.one_hot(batch.labels, 4)) / size
    assert torch.allclose(found.deltas, expected, atol=1e-9)  # least squares in double precision


def test_where_a_mask_is_not_between_two_linear_layers_masks_are_left_open() -> None:
    model = nn.Sequential(dense(nn.Identity(), nn.Identity()), nn.Dropout(0.5)).eval()
    observation, truth = toy(model, (3, 2, 2), 2)
    assert peel(observation, truth.batches[0].inputs).masks is None


def test_a_hidden_layer_ends_it() -> None:
    observation, truth = toy(dense(nn.Identity(), nn.Identity()), (3, 2, 2), 2)
    hidden = hiding(observation, "4.weight")
    found = peel(hidden, truth.batches[0].inputs)
    assert (found.masks, found.labels, found.deltas) == (None, None, None)


def test_an_entry_between_rounding_and_a_small_one_is_decided_by_the_layer_behind() -> None:
    """A kept unit whose gradient is tiny, and a dropped one with as much rounding: one size, and one of each."""
    generator = torch.Generator().manual_seed(0)
    activations, deltas, behind = (
        torch.randn(size, generator=generator, dtype=torch.float64) for size in ((2, 12), (2, 12), (9, 2))
    )
    mask = (torch.rand((2, 12), generator=generator) > 0.4).double()
    mask[0, 3], mask[1, 5] = 1.0, 0.0
    sizes = deltas * mask
    sizes[0, 3] = 1e-6 * sizes[1, 3].abs().clamp_min(1.0)
    sizes[1, 5] = 1e-6 * sizes[0, 5].abs().clamp_min(1.0)
    errors = torch.full((2, 1), 1e-7, dtype=torch.float64)
    assert torch.equal(_infer_mask(sizes, errors, activations, behind @ (activations * mask)), mask)


def test_a_mask_in_front_of_a_sum_is_corrected_by_the_layer_behind() -> None:
    """A kept unit whose gradient is as small as rounding looks dropped; the layer behind reads a sum, and knows."""
    generator = torch.Generator().manual_seed(0)
    added, activations, deltas, behind = (
        torch.randn(size, generator=generator, dtype=torch.float64) for size in ((8, 64), (8, 64), (8, 64), (10, 8))
    )
    mask = (torch.rand((8, 64), generator=generator) > 0.4).double()
    mask[3, 5] = 1.0
    sizes = deltas * mask
    sizes[3, 5] *= 1e-9
    assert float(_split_at_widest_gap(sizes)[3, 5]) == 0.0

    def inputs(tried: torch.Tensor) -> torch.Tensor:
        return added + tried * activations

    gradient = behind @ inputs(mask)
    read = _read_added(sizes, gradient, inputs)
    assert torch.equal(read[0], mask)
    assert _read_added(sizes, torch.randn((10, 64), generator=generator, dtype=torch.float64), inputs) is None


def test_labels_that_are_mixed_give_the_larger_part_and_a_vanished_loss_the_models_answer() -> None:
    outputs = torch.tensor([[0.1, 0.2, -0.1, 0.3], [5.0, 0.0, 0.0, 0.0], [0.0, 0.0, 9.0, 0.0]], dtype=torch.float64)
    mixed = torch.tensor([[0.35, 0.65, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]], dtype=torch.float64)
    deltas = (outputs.softmax(1) - mixed) / 3
    deltas[2] = torch.tensor([-1e-9, 1e-9, 2e-9, -2e-9])  # rounding alone
    assert _labels(outputs, deltas).tolist() == [1, 1, 2]
