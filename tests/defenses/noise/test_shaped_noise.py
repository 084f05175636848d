"""Noise along the derivative of a gradient, against that derivative taken column by column."""

import pytest
import torch
from torch import Tensor

from defenses.noise.shaped_noise import ShapedNoise, push_forward
from fedsim.core.hooks import LocalStep
from fedsim.core.types import Batch
from tests.defenses.stepping import gradient, here, local_step, make


def flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors.values()])


def derivative(local: LocalStep) -> Tensor:
    """J (P, n) by finite differences in double precision, of a model that is smooth."""
    inputs, columns, step = local.batch.inputs.double(), [], 1e-5
    for index in range(inputs.numel()):
        ends: list[Tensor] = []
        for sign in (1.0, -1.0):
            moved = inputs.clone()
            moved.view(-1)[index] += sign * step
            ends.append(
                flat(dict(gradient(LocalStep(local.model, local.parameters, Batch(moved, local.batch.labels), 3))))
            )
        columns.append((ends[0] - ends[1]) / (2 * step))
    return torch.stack(columns, 1)


def in_double() -> LocalStep:
    local = local_step()
    model = local.model.double()
    batch = Batch(local.batch.inputs.double(), local.batch.labels)
    return LocalStep(model, dict(model.named_parameters()), batch, 3.0)


def test_it_pushes_a_random_change_of_the_inputs_through_the_derivative() -> None:
    local = in_double()
    change = torch.randn(local.batch.inputs.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    pushed = flat(dict(push_forward(local, torch.Generator().manual_seed(4))))
    # Central differences at steps of 1e-5 are right to about 1e-10 of the derivative.
    assert torch.allclose(pushed, derivative(local) @ change.flatten(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_the_noise_has_the_stated_norm_and_lies_in_the_span_of_the_derivative(scale: float) -> None:
    local = in_double()
    plain = gradient(local)
    noisy = make("shaped-noise", scale=scale).on_gradient(plain, here(3, local=local))
    noise = flat(dict(noisy)) - flat(dict(plain))
    assert float(noise.norm()) == pytest.approx(scale * float(flat(dict(plain)).norm()))
    basis = torch.linalg.svd(derivative(local), full_matrices=False)[0]
    assert basis.shape[1] == 18 < len(noise)
    assert float((noise - basis @ (basis.T @ noise)).norm()) < 1e-6 * float(noise.norm())


def test_without_strength_or_examples_the_gradient_stays_as_it_is() -> None:
    plain = gradient()
    assert make("shaped-noise", scale=0.0).on_gradient(plain, here(local=local_step())) is plain
    assert make("shaped-noise").on_gradient(plain, here(local=local_step(examples=0))) is plain
    assert ShapedNoise.needs_step
