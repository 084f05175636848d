"""Skips are found in the order of the decoder, scaled before anything else, and left as they were."""

import pytest
import torch
from torch import Tensor, nn

from fedsim.components.core.skips import Skip, scaled_skips, skips_of
from fedsim.core import seeding


class Joined(nn.Module):
    """One skip, then a convolution; with a norm between them if asked."""

    def __init__(self, groups: int = 0) -> None:
        super().__init__()
        self.join = Skip()
        with seeding.isolate_randomness(0):
            self.norm = nn.GroupNorm(groups, 8) if groups else nn.Identity()
            self.last = nn.Conv2d(8, 2, 1)

    def forward(self, up: Tensor, stored: Tensor) -> Tensor:
        return self.last(self.norm(self.join(up, stored)))


def features(seed: int = 0) -> tuple[Tensor, Tensor]:
    own = torch.Generator().manual_seed(seed)
    return torch.randn(2, 4, 3, 3, generator=own), torch.randn(2, 4, 3, 3, generator=own)


def scaled(model: nn.Module, factor: float | Tensor, up: Tensor, stored: Tensor) -> Tensor:
    with scaled_skips(model, lambda _number, _count: factor):
        return model(up, stored)


def test_scaling_is_that_of_the_weights_which_read_the_stored_channels() -> None:
    model, (up, stored) = Joined(), features()
    found = scaled(model, 0.5, up, stored)
    with torch.no_grad():
        model.last.weight[:, 4:] *= 0.5
    torch.testing.assert_close(found, model(up, stored))


def test_a_norm_of_stored_channels_alone_cancels_the_factor_and_one_of_mixed_groups_does_not() -> None:
    up, stored = features()
    apart, mixed = Joined(groups=2), Joined(groups=1)
    # The norm's own 1e-5 beside a variance of about 1 / 4 is all that the factor leaves.
    torch.testing.assert_close(scaled(apart, 0.5, up, stored), apart(up, stored), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(scaled(mixed, 0.5, up, stored), mixed(up, stored), atol=1e-2)
    torch.testing.assert_close(scaled(mixed, 0.5, up, stored), mixed(up, 0.5 * stored), rtol=0, atol=0)


def test_a_factor_of_nothing_is_a_stored_feature_of_zeros() -> None:
    model, (up, stored) = Joined(groups=1), features()
    stored.requires_grad_()
    found = scaled(model, 0.0, up, stored)
    assert torch.equal(found, model(up, torch.zeros_like(stored)))
    (slope,) = torch.autograd.grad(found.sum(), stored)
    assert not slope.any()


def test_each_row_has_a_factor_of_its_own() -> None:
    model, (up, stored) = Joined(), features()
    found = scaled(model, torch.tensor([1.0, 0.25]), up, stored)
    torch.testing.assert_close(found[1:], scaled(model, 0.25, up, stored)[1:], rtol=0, atol=0)
    torch.testing.assert_close(found[:1], model(up, stored)[:1], rtol=0, atol=0)


def test_scales_multiply_where_they_are_nested_and_leave_nothing_behind_even_after_an_error() -> None:
    model, (up, stored) = Joined(), features()
    plain = model(up, stored)
    with scaled_skips(model, lambda _number, _count: 0.5):
        half = scaled(model, 0.5, up, stored)
    torch.testing.assert_close(half, scaled(model, 0.25, up, stored))
    with pytest.raises(ValueError, match="on purpose"), scaled_skips(model, lambda _number, _count: 0.5):
        raise ValueError("on purpose")
    assert torch.equal(model(up, stored), plain)
    assert skips_of(model) == [model.join]
