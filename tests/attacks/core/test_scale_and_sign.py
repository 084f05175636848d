"""Scale and sign of directions, planted and found again by what the next layer saw."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.core.scale_and_sign import largest_in_range, outside_row_space, signed_scales
from fedsim.core.types import InputSpec
from tests.attacks.solving import toy

TRUE = torch.tensor([0.4, -1.3, 2.5], dtype=torch.float64)


def planted(activation: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Outputs W u of three directions, and rows that span act(s W u)."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(3, 10, generator=generator, dtype=torch.float64)
    directions = directions / directions.square().mean(1, keepdim=True).sqrt()
    outputs = directions @ torch.randn(10, 40, generator=generator, dtype=torch.float64)
    return outputs, torch.linalg.qr(activation(TRUE[:, None] * outputs).T).Q.T


@pytest.mark.parametrize("activation", [F.gelu, F.silu, F.softplus])
def test_a_curved_activation_shows_scale_and_sign(activation: Callable[[Tensor], Tensor]) -> None:
    outputs, row_space = planted(activation)
    found = signed_scales(activation, outputs, torch.ones_like(outputs), row_space)
    assert torch.allclose(found.values, TRUE, rtol=1e-6)  # Newton steps end at relative changes of 1e-13
    assert bool((found.residuals < 1e-8).all())
    assert bool(found.is_identified.all())


def test_dropped_units_are_left_out_of_the_comparison() -> None:
    outputs, _ = planted(F.gelu)
    kept = (torch.rand(outputs.shape, generator=torch.Generator().manual_seed(1)) > 0.25).double()
    row_space = torch.linalg.qr((F.gelu(TRUE[:, None] * outputs) * kept).T).Q.T
    found = signed_scales(F.gelu, outputs, kept, row_space)
    assert torch.allclose(found.values, TRUE, rtol=1e-6)


def test_relu_shows_the_sign_alone_and_an_odd_function_neither() -> None:
    outputs, row_space = planted(F.relu)
    relu = signed_scales(F.relu, outputs, torch.ones_like(outputs), row_space)
    assert not bool(relu.is_identified.any())
    assert torch.equal(relu.values.sign(), TRUE.sign())
    outputs, row_space = planted(torch.tanh)
    odd = signed_scales(torch.tanh, outputs, torch.ones_like(outputs), row_space)
    assert torch.allclose(odd.values.abs(), TRUE.abs(), rtol=1e-6)


def test_what_lies_outside_a_row_space_is_the_rest_of_a_projection() -> None:
    generator = torch.Generator().manual_seed(2)
    rows, seen = (torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (2, 3))
    unit = F.normalize(seen, dim=1)
    expected = unit - (torch.linalg.pinv(rows) @ rows @ unit.T).T
    everywhere = torch.ones_like(seen)
    assert torch.allclose(outside_row_space(seen, everywhere, rows), expected)
    inside = rows.mean(0, keepdim=True)
    assert float(outside_row_space(inside, torch.ones_like(inside), rows).norm()) < 1e-12
    silent = torch.zeros(1, 6, dtype=torch.float64)
    assert float(outside_row_space(silent, torch.ones_like(silent), rows).norm()) == pytest.approx(1.0)


def test_the_largest_factor_touches_the_pixel_range() -> None:
    observation, _ = toy(nn.Sequential(nn.Flatten(), nn.Linear(4, 4)), (1, 2, 2), 1)
    observation = replace(observation, spec=InputSpec((1, 2, 2), 4, (0.5,), (0.25,)))  # black is -2, white is 2
    examples = torch.tensor([[0.5, -0.1, 0.0, 0.25], [-4.0, 1.0, 0.0, 0.0]], dtype=torch.float64).view(2, 1, 2, 2)
    assert largest_in_range(examples, observation).tolist() == pytest.approx([4.0, 0.5])
