"""The Jacobian is that of finite differences and of the products, and entries that were not sent are no equations."""

import pytest
import torch
from torch import nn

from attacks.second_order._equations import _sum_rounding
from tests.attacks.second_order.solved import ALL, SMOOTH, distances, equations_of, lenet, solve, toy
from tests.federating import watched


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_the_jacobian_is_that_of_finite_differences_and_of_the_products(rate: float) -> None:
    observation, _ = toy(lenet(1, 8, 4, rate), (1, 8, 8), 2, classes=10)
    equations, generator = equations_of(observation), torch.Generator().manual_seed(1)
    at = equations.unknowns.start(generator, 0.5)
    rows, here, step = equations.jacobian(at), equations.linearise(at), 1e-5
    changes = torch.randn((4, len(at)), generator=generator, dtype=torch.float64)
    for change in changes:
        measured = (equations.residual(at - step * change) - equations.residual(at + step * change)) / (2 * step)
        torch.testing.assert_close(change @ rows, measured, rtol=1e-6, atol=1e-7)  # error of order step^2
        torch.testing.assert_close(here.forward(change), change @ rows)
    torch.testing.assert_close(here.backward(here.residual), rows @ here.residual)
    assert len(equations.parts) == 2


def test_examples_that_batch_statistics_couple_stay_together() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Linear(12, 4))
    observation, truth = toy(model, (1, 4, 4), 3)
    equations = equations_of(observation)
    assert len(equations.parts) == 1
    residual = equations.residual(truth.batches[0].inputs.flatten())
    assert float(residual.norm()) < 1e-12


def test_entries_that_were_not_sent_are_no_equations() -> None:
    pruning = [{"name": "pruning", "rate": 0.5}]
    observation, truth, _ = watched(model=SMOOTH, knows=ALL, defenses=pruning)
    guess = solve(observation)
    sent = sum(int(tensor.count_nonzero()) for tensor in observation.update.tensors.values())
    assert guess.diagnostics["equations"] == sent
    assert float(distances(guess, truth).max()) < 1e-3
    assert not guess.is_exact


def test_hidden_layers_are_left_out() -> None:
    observation, truth, _ = watched(model=SMOOTH, threat={"visible_parameters": ["4.*", "1.*"]})
    assert float(distances(solve(observation), truth).max()) < 1e-3


@pytest.mark.parametrize(
    ("measured", "relative"),
    [
        (0.0, 4 * 2.0**-23),  # four roundings of float32
        (1e-6, 2e-6),  # twice what was measured at other examples
        (1e-2, 1e-5),  # no more than what an unstable model loses
    ],
)
def test_rounding_counts_twice_what_was_measured_within_bounds(measured: float, relative: float) -> None:
    observation, _ = toy(nn.Sequential(nn.Flatten(), nn.Linear(16, 4)), (1, 4, 4), 1, dtype=torch.float32)
    rounding = _sum_rounding(observation, {"1.weight": measured, "1.bias": measured})
    assert rounding == pytest.approx(2 * relative**2, rel=1e-12, abs=0)  # two tensors, but for rounding of the sum
