"""Adam and schedules beside torch's."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attacks.core.matching.optimizers import Constant, Cosine, Plateau, RowAdam, Steps, sign_gradient


@pytest.mark.paper_step("dropout-inversion", "Adam on inputs and masks")
@given(st.integers(1, 4), st.integers(0, 50))
@settings(max_examples=20, deadline=None)
def test_adam_is_torchs_adam_with_a_step_a_row(rows: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn((rows, 2, 3), generator=generator, dtype=torch.float64)
    gradients = torch.randn((12, rows, 2, 3), generator=generator, dtype=torch.float64)
    rates = torch.rand((12, rows), generator=generator, dtype=torch.float64)
    ours = start.clone()
    adam = RowAdam([ours])
    for gradient, rate in zip(gradients, rates, strict=True):
        adam.step([ours], [gradient], [rate])
    for row in range(rows):
        theirs = start[row].clone().requires_grad_()
        optimizer = torch.optim.Adam([theirs], lr=1.0)
        for gradient, rate in zip(gradients, rates, strict=True):
            optimizer.param_groups[0]["lr"] = float(rate[row])
            theirs.grad = gradient[row].clone()
            optimizer.step()
        assert torch.allclose(ours[row], theirs.detach(), rtol=1e-9, atol=1e-12)


def test_adam_forgets_rows_that_left() -> None:
    generator = torch.Generator().manual_seed(0)
    both, one = torch.zeros(2, 3), torch.zeros(1, 3)
    adam, alone = RowAdam([both]), RowAdam([one])
    gradients = torch.randn((6, 2, 3), generator=generator)
    for gradient in gradients[:3]:
        adam.step([both], [gradient], [torch.full((2,), 0.1)])
        alone.step([one], [gradient[1:]], [torch.full((1,), 0.1)])
    adam.keep(torch.tensor([1]))
    rest = both[1:].clone()
    for gradient in gradients[3:]:
        adam.step([rest], [gradient[1:]], [torch.full((1,), 0.1)])
        alone.step([one], [gradient[1:]], [torch.full((1,), 0.1)])
    assert torch.equal(rest, one)


@pytest.mark.paper_step("dropout-inversion", "a smaller step on a plateau")
@given(
    patience=st.integers(0, 4),
    factor=st.sampled_from([0.1, 0.5]),
    objectives=st.lists(
        st.tuples(st.sampled_from([1.0, 0.99995, 0.9, 0.5, 0.1]), st.floats(1e-3, 2.0)), min_size=1, max_size=40
    ),
)
@settings(max_examples=60, deadline=None)
def test_plateau_is_torchs_for_every_row(patience: int, factor: float, objectives: list[tuple[float, float]]) -> None:
    table = torch.tensor(objectives, dtype=torch.float64)
    ours = Plateau(2, patience, factor, torch.zeros(2, dtype=torch.float64))
    factors = torch.stack([ours.factors(i + 1, row) for i, row in enumerate(table)])
    for column in range(2):
        weight = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([weight], lr=1.0)
        theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=factor, patience=patience, eps=0.0)
        for row in range(len(table)):
            assert float(factors[row, column]) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
            theirs.step(float(table[row, column]))


def test_plateau_forgets_rows_that_left() -> None:
    plateau = Plateau(2, 0, 0.5, torch.zeros(2))
    plateau.factors(1, torch.tensor([1.0, 1.0]))
    plateau.factors(2, torch.tensor([0.1, 1.0]))
    plateau.keep(torch.tensor([1]))
    assert plateau.factors(3, torch.tensor([0.2])).tolist() == [0.5]


def test_steps_are_those_of_inverting_gradients() -> None:
    schedule = Steps(80)
    factors = [float(schedule.factors(i, torch.zeros(1))) for i in range(1, 81)]
    changes = [i + 1 for i, (a, b) in enumerate(pairwise(factors), 1) if a != b]
    assert changes == [31, 51, 71]
    assert factors[-1] == pytest.approx(1e-3)


def test_cosine_warms_up_and_ends_at_nothing() -> None:
    schedule = Cosine(100, 10)
    factors = [float(schedule.factors(i, torch.zeros(1))) for i in range(1, 101)]
    assert factors[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert factors[54] == pytest.approx(0.5)
    assert factors[-1] == pytest.approx(0.0, abs=1e-9)
    assert all(a > b for a, b in pairwise(factors[10:]))
    assert Cosine(100).factors(0, torch.zeros(2)).tolist() == [1.0, 1.0]
    assert Constant().factors(3, torch.zeros(2)).tolist() == [1.0, 1.0]


@pytest.mark.paper_step("dropout-inversion", "sign of the inputs' gradient")
@pytest.mark.paper_step("inverting-gradients", "Adam on the sign of the gradient")
def test_signs() -> None:
    gradient = torch.tensor([[3.0, -1.0, 0.0], [1e-9, 1e-9, -1e-9]])
    assert sign_gradient(gradient, "hard").tolist() == [[1, -1, 0], [1, 1, -1]]
    assert sign_gradient(gradient, "off") is gradient
    soft = sign_gradient(gradient, "soft")
    expected = torch.tanh(gradient[0] / gradient[0].square().mean().sqrt())
    assert torch.allclose(soft[0], expected)
    assert torch.allclose(soft[1], torch.tensor([1.0, 1.0, -1.0]) * np.tanh(1.0))
