"""Masks that are recorded, injected, and drawn."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsim.core.errors import FedsimError
from fedsim.core.nets.masks import disable_dropout, draw_masks, dropout_sites, inject_masks, record_masks
from tests.core.nets.masks.networks import build


def gradients(model: nn.Module, output: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(output.square().sum(), list(model.parameters()), allow_unused=True))


@pytest.mark.parametrize("training", [True, False])
def test_given_masks_reproduce_output_and_gradients_bit_by_bit(training: bool) -> None:
    model, x = build()
    with record_masks(model, torch.Generator().manual_seed(1)) as recording:
        output = model(x)
    expected = gradients(model, output)
    model.train(training)
    with inject_masks(recording.sites, tuple(recording.masks)):
        repeated = model(x)
    assert torch.equal(output, repeated)
    for ours, theirs in zip(gradients(model, repeated), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_masks_of_ones_scale_by_the_keep_rate_and_are_no_identity() -> None:
    model = nn.Sequential(nn.Identity(), nn.Dropout(0.2))
    model.register_parameter("anchor", nn.Parameter(torch.zeros(1)))
    x = torch.rand(3, 7)
    sites = dropout_sites(model, (7,), 3)
    with inject_masks(sites, (torch.ones(3, 7),)):
        assert torch.allclose(model(x), x / 0.8)


def test_without_dropout_equals_plain_evaluation() -> None:
    model, x = build()
    model.eval()
    plain = model(x)
    with disable_dropout():
        assert torch.allclose(model(x), plain, atol=1e-6)
    with disable_dropout():
        assert torch.allclose(model.train()(x), plain, atol=1e-6)


@given(rate=st.floats(0.05, 0.95), batch=st.integers(1, 4), width=st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_recorded_masks_are_zero_or_one_and_of_the_activations_shape(rate: float, batch: int, width: int) -> None:
    model = nn.Sequential(nn.Linear(3, width), nn.Dropout(rate))
    with record_masks(model, torch.Generator().manual_seed(batch)) as recording:
        model(torch.ones(batch, 3))
    (mask,) = recording.masks
    assert mask.shape == (batch, width)
    assert set(mask.unique().tolist()) <= {0.0, 1.0}


def test_drawn_masks_keep_the_stated_share() -> None:
    model = nn.Sequential(nn.Linear(3, 4000), nn.Dropout(0.25))
    (mask,) = draw_masks(dropout_sites(model, (3,), 2), torch.Generator().manual_seed(0), torch.empty(0))
    assert abs(float(mask.mean()) - 0.75) < 0.02


def test_recording_draws_nothing_from_the_global_generator() -> None:
    model, x = build()
    before = torch.random.get_rng_state()
    with record_masks(model, torch.Generator().manual_seed(1)):
        model(x)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_mask_of_the_wrong_shape_names_its_site() -> None:
    model, x = build()
    sites = dropout_sites(model, (5, 8), 4)
    masks = tuple(torch.ones(site.shape) for site in sites)
    with pytest.raises(FedsimError, match="'model' has shape"), inject_masks(sites, (torch.ones(2), *masks[1:])):
        model(x)


def test_a_site_that_is_never_reached_is_an_error() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.25))
    sites = dropout_sites(model, (3,), 1)
    with pytest.raises(FedsimError, match="never reached"), inject_masks(sites, (torch.ones(1, 4),)):
        pass
