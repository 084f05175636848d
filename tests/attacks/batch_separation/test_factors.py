"""A gradient as a product, and the inputs that a complete basis of its columns gives."""

import pytest
import torch
from torch import nn

from attacks.batch_separation._factors import factorise, hopeless, inputs_of, too_few_units
from attacks.batch_separation._first_layer import first_layer
from attacks.batch_separation._sparsest import Sparse
from attacks.core.spans import spectrum
from tests.attacks.solving import network, toy


@pytest.mark.paper_step("spear", "low-rank factors of the weight gradient")
def test_factors_multiply_to_the_rest_without_its_rows_of_zeros() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((9, 3), (3, 6)))
    left[[1, 4]] = 0.0
    gradient = left @ right
    found = factorise(gradient, gradient, lambda singular: spectrum(singular).rank)
    assert found.live.tolist() == [bool(row.any()) for row in left]
    assert found.basis.shape == (7, 3)
    assert torch.allclose(found.basis.T @ found.basis, torch.eye(3, dtype=torch.float64))
    assert torch.allclose(found.sizes[:, None] * (found.basis @ found.right), gradient[found.live])
    assert torch.allclose((found.basis @ found.right).norm(dim=1), torch.ones(7, dtype=torch.float64))
    even = torch.ones(9, dtype=torch.float64)
    as_it_is = factorise(gradient, gradient, lambda _singular: 3, even)
    assert torch.allclose(as_it_is.basis @ as_it_is.right, gradient[found.live])
    assert torch.allclose(found.residual_shares, torch.ones(7, dtype=torch.float64))
    half = factorise(gradient, gradient / 2, lambda _singular: 2)
    assert torch.allclose(half.residual_shares, torch.full((7,), 0.5, dtype=torch.float64))
    assert half.basis.shape == (7, 2)


def test_more_rank_than_examples_and_too_few_units_are_hopeless() -> None:
    assert hopeless(4, 100, 4) is None
    assert "numerical rank 5 exceeds the batch size 4" in (hopeless(5, 100, 4) or "")
    assert too_few_units(4, 16) is None
    assert "15 units cannot separate 4 examples; at least 16 are needed" in (too_few_units(4, 15) or "")


@pytest.mark.parametrize("bias", [False, True])
def test_the_true_output_gradients_give_the_true_inputs(bias) -> None:
    """Columns of D are the examples' output gradients; q with U q = D solves D X = U R for X, with scale and sign."""
    observation, truth = toy(network(12, 40, bias=bias, activation=nn.GELU), (3, 2, 2), 3)
    first = first_layer(observation)
    examples = truth.batches[0].inputs
    outputs = observation.model[1](examples.flatten(1)).detach().requires_grad_()
    loss = observation.loss(observation.model[2:](outputs), truth.batches[0].labels)
    (slopes,) = torch.autograd.grad(loss, outputs)
    factors = factorise(first.gradient, first.gradient, lambda singular: spectrum(singular, limit=3).rank)
    vectors = torch.nn.functional.normalize(slopes[:, factors.live] / factors.sizes @ factors.basis, dim=1)
    found = inputs_of(observation, first, factors, Sparse(vectors, torch.zeros(3)))
    assert torch.allclose(found, examples.flatten(1), atol=1e-6)  # scale and sign end at rounding of a search
