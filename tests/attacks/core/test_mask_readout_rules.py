"""Masks read off zeros: of every site between linear layers, of one example, and of an exact gradient alone."""

import torch
from torch import nn

from attacks.core.mask_readout_rules import linear_behind, read_all_masks, read_masks
from fedsim.core import seeding
from tests.attacks.solving import hiding, sending, toy


def dense() -> nn.Module:
    with seeding.isolate_randomness(0):
        return nn.Sequential(
            nn.Flatten(), nn.Linear(12, 16), nn.GELU(), nn.Dropout(0.5), nn.Linear(16, 10), nn.GELU(),
            nn.Dropout(0.25), nn.Linear(10, 4),
        )  # fmt: skip


def test_the_linear_layer_behind_each_site_is_found() -> None:
    assert linear_behind(toy(dense(), (3, 2, 2), 1)[0]) == {0: "4", 1: "7"}
    masked_scores = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 4), nn.Dropout(0.5))
    assert linear_behind(toy(masked_scores, (3, 2, 2), 1)[0]) == {0: "2"}


def test_zeros_of_one_example_are_its_masks() -> None:
    observation, truth = toy(dense(), (3, 2, 2), 1)
    found = read_all_masks(observation)
    assert all(torch.equal(own, mask) for own, mask in zip(found, truth.masks[0], strict=True))


def test_zeros_of_several_examples_or_beside_noise_are_no_masks() -> None:
    batch, _ = toy(dense(), (3, 2, 2), 2)
    assert read_masks(batch) == {}
    assert read_all_masks(batch) is None
    one, _ = toy(dense(), (3, 2, 2), 1)
    noisy = {n: t + 1e-3 * t.abs().mean() * torch.randn_like(t) for n, t in one.update.tensors.items()}
    assert read_masks(sending(one, noisy)) == {}


def test_where_one_matrix_is_hidden_its_neighbour_shows_the_mask() -> None:
    observation, truth = toy(dense(), (3, 2, 2), 1)
    hidden = hiding(observation, "4.weight")
    found = read_masks(hidden)
    assert torch.equal(found[0], truth.masks[0][0])
    assert torch.equal(found[1], truth.masks[0][1])
