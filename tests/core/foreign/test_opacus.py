"""Undocumented names of Opacus behave as fedsim expects."""

import math

import numpy as np
import pytest
import torch
from opacus import GradSampleModule
from torch import nn

from fedsim.core.foreign import opacus


def test_rules_of_a_dense_layer_give_gradients_and_norms_of_each_example() -> None:
    layer, inputs, slopes = nn.Linear(3, 2), torch.randn(4, 3), torch.randn(4, 2)
    expected = slopes[:, :, None] * inputs[:, None, :]
    gradients, norms = opacus.gradient_rule(layer), opacus.norm_rule(layer)
    assert gradients is not None
    assert norms is not None
    with torch.no_grad():
        torch.testing.assert_close(gradients(layer, [inputs], slopes)[layer.weight], expected)
        torch.testing.assert_close(gradients(layer, [inputs], slopes)[layer.bias], slopes)
        torch.testing.assert_close(norms(layer, [inputs], slopes)[layer.weight], expected.flatten(1).norm(dim=1))


def test_an_unknown_class_has_no_rule() -> None:
    class Own(nn.Linear):
        pass

    assert opacus.gradient_rule(Own(2, 2)) is None
    assert opacus.norm_rule(Own(2, 2)) is None


def test_functorch_gives_gradients_of_each_example_of_any_class() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.tensor([2.0, 3.0]))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.factor * inputs

    module, inputs, slopes = Scale(), torch.randn(4, 2), torch.randn(4, 2)
    found = opacus.ft_compute_per_sample_gradient(module, [inputs], slopes)
    torch.testing.assert_close(found[module.factor], inputs * slopes)
    assert "ft_compute_sample_grad" in vars(module)  # stays on the module; per_example.py removes it


def test_inner_module_is_the_wrapped_module() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    assert opacus.inner_module(GradSampleModule(model)) is model


@pytest.mark.parametrize(("noise", "order"), [(1.5, 2.0), (4.0, 8.0)])
def test_rdp_of_full_batches_is_that_of_the_gaussian(noise: float, order: float) -> None:
    found = float(np.asarray(opacus.compute_rdp(q=1.0, noise_multiplier=noise, steps=3, orders=order)))
    assert found == pytest.approx(3 * order / (2 * noise**2))


def test_rdp_of_order_two_with_subsampling_has_a_closed_form() -> None:
    found = float(np.asarray(opacus.compute_rdp(q=0.1, noise_multiplier=1.0, steps=1, orders=2.0)))
    assert found == pytest.approx(math.log(1 + 0.1**2 * (math.e - 1)))


def test_composed_loss_has_the_exact_delta_of_a_gaussian() -> None:
    steps, noise, epsilon = 4, 4.0, 0.7
    grid = opacus.Domain.create_aligned(-8.0, 8.0, 1e-3)
    law = opacus.PoissonSubsampledGaussianPRV(1.0 - 1e-12, noise)  # a rate of 1 divides by zero
    loss = opacus.discretize(opacus.TruncatedPrivacyRandomVariable(law, grid.t_min, grid.t_max), grid)
    total = opacus.compose_heterogeneous([loss], [steps])
    losses, mu = total.domain.ts, math.sqrt(steps) / noise
    delta = float(np.sum(np.where(losses > epsilon, -np.expm1(epsilon - losses), 0.0) * total.pmf))

    def normal(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    exact = normal(mu / 2 - epsilon / mu) - math.exp(epsilon) * normal(-mu / 2 - epsilon / mu)
    assert delta == pytest.approx(exact, rel=0.01)
