"""The equations of stages: zero at the truth, derivatives, and one stage alone that they give back."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from attacks.second_order._levenberg_marquardt import SolverLimits, solve
from attacks.second_order._residual_chain import Stage, chain_of
from attacks.second_order._stage_equations import Blindness, SizePrior, StageEquations, StageOutput, stage_outputs
from tests.attacks.second_order.residual import residual
from tests.attacks.second_order.solved import toy


class Passed(NamedTuple):
    """A stage with its true input, and what is known of its output."""

    stage: Stage
    inputs: Tensor
    output: StageOutput
    received: dict[str, Tensor]


def passed(number: int, *, widths: tuple[int, ...] = (4, 4, 8), activation: type = nn.SiLU) -> Passed:
    observation, truth = toy(residual(*widths, activation=activation), (1, 8, 8), 1, classes=10)
    stages = chain_of(observation).stages
    inputs = truth.batches[0].inputs
    for stage in stages[:number]:
        inputs = stage.close(stage.apply(stage.weights(), inputs))
    outputs = stages[number].close(stages[number].apply(stages[number].weights(), inputs))
    generator = torch.Generator().manual_seed(1)
    cotangent = torch.randn(outputs.shape, generator=generator, dtype=torch.float64)
    weights = {name: weight.clone().requires_grad_() for name, weight in stages[number].weights().items()}
    again = stages[number].close(stages[number].apply(weights, inputs))
    slopes = torch.autograd.grad((again * cotangent).sum(), list(weights.values()))
    output = StageOutput(outputs, cotangent, torch.ones_like(outputs, dtype=torch.bool))
    return Passed(stages[number], inputs, output, dict(zip(weights, slopes, strict=True)))


@pytest.mark.parametrize("activation", [nn.SiLU, nn.ReLU])
@pytest.mark.parametrize("number", [0, 1, 3])
def test_they_hold_at_the_truth(number: int, activation: type) -> None:
    stage, inputs, output, received = passed(number, activation=activation)
    equations = StageEquations([stage], tuple(inputs.shape), output, received)
    residual = equations.residual(equations.unknowns.start(inputs))
    assert len(residual) == equations.count
    assert float(residual.square().sum()) < 1e-24  # rounding of double precision


def test_derivatives_are_those_of_differences() -> None:
    stage, inputs, output, received = passed(1)
    blind = StageOutput(output.values, output.cotangent, output.is_known, Blindness(1, lattice=True))
    equations = StageEquations([stage], tuple(inputs.shape), blind, received, SizePrior(0.1, 1.0), Blindness(1))
    size = equations.unknowns.size
    assert size == 256 + 1 + 4
    generator = torch.Generator().manual_seed(0)
    point = torch.randn(size, generator=generator, dtype=torch.float64)
    change = torch.randn(size, generator=generator, dtype=torch.float64)
    step = 1e-6 * change
    slope = -(equations.residual(point + step) - equations.residual(point - step)) / 2e-6
    # A difference of steps of 1e-6 in double precision leaves as much.
    jacobian, here = equations.jacobian(point), equations.linearise(point)
    torch.testing.assert_close(change @ jacobian, slope, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(here.forward(change), slope, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(here.backward(slope), jacobian @ slope, rtol=1e-6, atol=1e-7)


def test_an_output_of_another_scale_and_with_constants_on_the_lattice_is_explained() -> None:
    stage, inputs, output, received = passed(1)
    lattice = torch.zeros(8, 8, dtype=torch.float64)
    lattice[::2, ::2] = 1.0
    constants = torch.tensor([0.1, -0.2, 0.3, 0.4], dtype=torch.float64)
    scale = 0.3
    factor = torch.exp(torch.tensor(-scale)).double()
    values = factor * output.values - constants.view(1, 4, 1, 1) * lattice
    seen = StageOutput(values, output.cotangent / factor, output.is_known, Blindness(1, lattice=True))
    equations = StageEquations([stage], tuple(inputs.shape), seen, received)
    truth = torch.cat([inputs.flatten(), torch.tensor([scale], dtype=torch.float64), constants])
    assert equations.misfit(truth) < 1e-13  # the exponential is of single precision


@pytest.mark.parametrize("number", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_one_stage_alone_comes_back_from_noise(number: int) -> None:
    stage, inputs, output, received = passed(number)
    equations = StageEquations([stage], tuple(inputs.shape), output, received)
    noise = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    start = output.values if number == 1 else nn.functional.silu(noise)
    solution = solve(equations, equations.unknowns.start(start), SolverLimits(60, 1, 10**12, 1e-22), lambda *_: None)
    assert solution.objective < 1e-18
    solved = solution.values.view(inputs.shape)
    scale = (solved * inputs).sum() / solved.square().sum()  # a block that begins with norms hardly shows it
    assert float((scale * solved - inputs).norm() / inputs.norm()) < 1e-6


def test_stages_together_read_what_each_returns_behind_its_relu() -> None:
    observation, truth = toy(residual(4, 4, activation=nn.ReLU), (1, 8, 8), 1, classes=10)
    stages = chain_of(observation).stages
    weights = {name: weight for stage in stages for name, weight in stage.weights().items()}
    outputs = stage_outputs(stages, weights, truth.batches[0].inputs)
    hidden = stages[0].apply(weights, truth.batches[0].inputs).relu()
    hidden = stages[1].apply(weights, hidden).relu()
    torch.testing.assert_close(outputs, stages[2].apply(weights, hidden))
