"""Errors of patches by hand."""

import torch

from fedsim.core.nets.visual import Passed
from fedsim.core.nets.visual.patches import kept_patches, nearest_guesses, patch_errors


def test_an_error_stays_in_its_patch() -> None:
    originals = torch.zeros(2, 3, 4, 6)
    guesses = originals.clone()
    guesses[1, :, 2:4, 4:6] = 0.5
    guesses[1, 0, 0, 0] = 1.0
    expected = torch.zeros(2, 6)
    expected[1, 5], expected[1, 0] = 0.25, 1 / 12
    torch.testing.assert_close(patch_errors(guesses, originals, (2, 3)), expected)


def test_kept_patches_are_those_of_the_last_layer() -> None:
    passed = Passed((torch.tensor([[0, 1, 2], [0, 1, 2]]), torch.tensor([[2, 0], [1, -1]])), ())
    assert kept_patches(passed, 4).tolist() == [[True, False, True, False], [False, True, False, False]]


def test_each_original_gets_its_nearest_guess() -> None:
    originals = torch.rand(3, 1, 2, 2)
    guesses = torch.cat((originals.flip(0) + 0.01, torch.full((1, 1, 2, 2), torch.nan)))
    torch.testing.assert_close(nearest_guesses(guesses, originals), originals + 0.01)
