"""Points of two spans: residuals, derivatives, steps, and what lies between two layers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attacks.batch_separation._first_layer import first_layer, row_space_behind
from attacks.batch_separation._intersection import (
    InputSpan,
    Intersection,
    is_elementwise,
    keeps_factor,
    solve_points,
    span_rows,
)
from tests.attacks.batch_separation.crossing import MLP, MNIST
from tests.federating import watched


def problem_of(observation, rank):
    first = first_layer(observation)
    row_space = row_space_behind(observation, first.behind, rank)
    right = torch.linalg.svd(first.gradient, full_matrices=False).Vh[:rank]
    span = span_rows(right, has_bias=first.has_bias)
    return first, span, Intersection.from_layer(span, first.weight, first.behind.inputs, row_space)


@pytest.mark.parametrize("bias", [False, True])
def test_the_residual_vanishes_at_the_truth(bias):
    observation, truth, _ = watched(data=MNIST, model={**MLP, "bias": bias}, federation={"batch_size": 8})
    first, span, problem = problem_of(observation, 8)
    inputs = truth.batches[0].inputs.flatten(1).double()
    inputs = torch.column_stack([inputs, torch.ones(8)]) if first.has_bias else inputs
    points = (inputs - span.offset) @ torch.linalg.pinv(span.directions)
    torch.testing.assert_close(span.offset + points @ span.directions, inputs, atol=1e-5, rtol=1e-5)
    assert float(problem.residuals(points).norm(dim=1).max()) < 1e-6


@settings(max_examples=10, deadline=None)
@given(
    unknowns=st.integers(1, 6),
    width=st.integers(8, 20),
    activation=st.sampled_from([nn.GELU(), nn.Tanh(), nn.Softplus()]),
    seed=st.integers(0, 100),
)
def test_derivatives_agree_with_finite_differences(unknowns, width, activation, seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    frame = torch.linalg.qr(draw(width, 3)).Q.T
    kept = torch.rand(width, generator=generator).gt(0.2).double()
    problem = Intersection(draw(width), draw(unknowns, width), activation, frame, kept)
    points = draw(2, unknowns)
    residuals, slopes = problem.linearise(points)
    torch.testing.assert_close(residuals, problem.residuals(points))
    for index, direction in enumerate(1e-6 * torch.eye(unknowns, dtype=torch.float64)):
        difference = (problem.residuals(points + direction) - problem.residuals(points - direction)) / 2e-6
        torch.testing.assert_close(slopes[:, index], difference, atol=1e-7, rtol=1e-6)


def test_steps_reach_a_point_that_was_planted():
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn((3, 40), generator=generator, dtype=torch.float64)
    truth = torch.randn((1, 3), generator=generator, dtype=torch.float64)
    frame = torch.nn.functional.normalize(torch.tanh(truth @ directions), dim=1)
    problem = Intersection(torch.zeros(40).double(), directions, torch.tanh, frame, torch.ones(40).double())
    points, norms = solve_points(problem, truth + 0.2 * torch.randn((8, 3), generator=generator, dtype=torch.float64))
    assert float(norms.max()) < 1e-9
    torch.testing.assert_close(points, truth.expand(8, 3), atol=1e-7, rtol=1e-7)


def test_silence_explains_nothing():
    problem = Intersection(
        -torch.ones(6).double(),
        torch.zeros(1, 6).double(),
        torch.relu,
        torch.eye(6).double()[:2],
        torch.ones(6).double(),
    )
    points, norms = solve_points(problem, torch.zeros(2, 1).double())
    assert torch.isfinite(points).all()
    assert norms.tolist() == pytest.approx([1.0, 1.0])


def test_spans_hold_the_one_of_the_bias_and_starts_are_as_large_as_standardised_inputs():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn((4, 10), generator=generator, dtype=torch.float64)
    span = span_rows(rows, has_bias=True)
    starts = span.starts(5, generator)
    inputs = span.offset + starts @ span.directions
    torch.testing.assert_close(inputs[:, -1], torch.ones(5).double())
    assert float((inputs @ (torch.eye(10).double() - torch.linalg.pinv(rows) @ rows)).abs().max()) < 1e-10
    assert (starts @ span.directions).norm(dim=1).tolist() == pytest.approx([10**0.5] * 5)
    assert isinstance(span_rows(rows, has_bias=False), InputSpan)
    assert span_rows(rows, has_bias=False).directions.shape == (4, 10)


def test_what_lies_between_two_layers_is_recognised():
    assert is_elementwise(nn.GELU(), 12)
    assert not is_elementwise(nn.LayerNorm(12, dtype=torch.float64), 12)
    assert not is_elementwise(nn.Softmax(1), 12)
    assert keeps_factor(nn.ReLU(), 12, 2.0)
    assert keeps_factor(nn.LeakyReLU(0.2), 12, 2.0)
    assert not keeps_factor(nn.GELU(), 12, 2.0)
    assert keeps_factor(nn.Tanh(), 12, -1.0)
    assert not keeps_factor(nn.GELU(), 12, -1.0)
