"""Patches are told apart by what became of them."""

import torch

from benchmarks.must_drop_patches import GROUPS, fates


def test_each_patch_has_one_fate() -> None:
    """Of 4 x 4 patches the windows at the top right and at the bottom are merged, the bottom left one is dropped."""
    first = torch.tensor([0, 1, 4, 5, 2, 8, 10])
    last = torch.tensor([0, 5, 2, 10])
    named = [GROUPS[fate] for fate in fates(first, last, (4, 4), 2)]
    assert named == [
        "kept", "dropped", *["merged, then kept"] * 2,
        "dropped", "kept", *["merged, then kept"] * 2,
        *["merged, then dropped"] * 2, *["merged, then kept"] * 2,
        *["merged, then dropped"] * 2, *["merged, then kept"] * 2,
    ]  # fmt: skip
