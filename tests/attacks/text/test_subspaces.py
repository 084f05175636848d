"""Spans of an attention's inputs against the projector of an explicit basis."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attacks.core.noise_level import measured_levels
from attacks.text._subspaces import hard, hard_behind, rank, subspace_of
from fedsim.core.types import Config, InputSpec, Observation
from fedsim.tasks.next_token import NextToken
from tests.attacks.solving import observed

ROUNDING = 1e-9  # of a singular value decomposition in double precision, with a factor of a million to spare


def within(clean: torch.Tensor, noisy: torch.Tensor, count: int, level: float) -> tuple[float, float]:
    """Return how far distances may be from those of the clean rows' span, and the trace of the soft projector S.

    With Q the projector on the first `count` singular directions of the noisy rows, and P that on the clean span,
    |Q - P| <= |noisy - clean| / s_count (Wedin), and S - Q has the eigenvalues r / (r + m) - 1 and r / (r + m). For x
    of norm 1 the lengths of x - S x and x - P x are at most 1, so that their squares differ by at most 2 |S - P|.
    """
    rows, width = noisy.shape
    singular = torch.linalg.svdvals(noisy)
    signal = ((singular / level).square() - (rows**0.5 + width**0.5) ** 2).clamp_min(0.0)
    shares = signal / (signal + rows)
    turned = torch.linalg.matrix_norm(noisy - clean, 2) / singular[count - 1]
    blurred = torch.cat([1.0 - shares[:count], shares[count:]]).max()
    return 2.0 * float(turned + blurred) + ROUNDING, float(shares.sum())


def seen(model: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> Observation:
    return observed(model, InputSpec((4,), 7, (), (), vocabulary=7), tensors, task=NextToken(Config()))


@given(st.integers(1, 6), st.integers(0, 999), st.sampled_from([0.0, 1e-3]))
def test_distances_are_those_of_the_projector_of_an_explicit_basis(count: int, seed: int, noise: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 24, generator=generator, dtype=torch.float64)
    clean = torch.randn(40, count, generator=generator, dtype=torch.float64) @ inputs
    gradient = clean + noise * torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    model = torch.nn.ModuleDict({"c_attn": torch.nn.Linear(24, 40, bias=False)})
    observation = seen(model, {"c_attn.weight": gradient})
    space = subspace_of(observation, "c_attn", count)
    (level,) = measured_levels(observation, {"c_attn.weight": gradient}, count)
    others = torch.randn(5, 24, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(inputs.T).Q
    outside = (others - others @ basis @ basis.T).square().sum(1) / others.square().sum(1)
    bound, trace = within(clean, gradient, count, level)
    assert float((space.distance(others) - outside).abs().max()) <= bound
    assert space.size == pytest.approx(trace, rel=ROUNDING)


@pytest.mark.paper_step("dager", "span of the attention gradients by numerical rank")
@pytest.mark.parametrize("count", [1, 4])
def test_the_hard_projector_is_that_of_the_row_space_and_its_size_the_rank(count: int) -> None:
    """Directions below the edge of the stated noise are left out, though they are exact."""
    generator = torch.Generator().manual_seed(count)
    inputs = torch.randn(count, 24, generator=generator, dtype=torch.float64)
    faint = torch.randn(1, 24, generator=generator, dtype=torch.float64)
    outputs = torch.randn(40, count + 1, generator=generator, dtype=torch.float64)
    gradient = outputs @ torch.cat((inputs, 1e-5 * faint))
    others = torch.randn(5, 24, generator=generator, dtype=torch.float64)
    for level, rows in ((1e-3, inputs), (1e-9, torch.cat((inputs, faint)))):
        parts = {"q": gradient[:25], "k": gradient[25:]}
        space = hard("c_attn", parts, (level, level))
        basis = torch.linalg.qr(rows.T).Q
        outside = (others - others @ basis @ basis.T).square().sum(1) / others.square().sum(1)
        torch.testing.assert_close(space.distance(others), outside, rtol=1e-3, atol=1e-4)
        assert space.size == rank(parts, (level, level)) == len(rows)


def test_fresh_adapters_compare_inputs_by_what_a_makes_of_them() -> None:
    numbers = torch.Generator().manual_seed(4)
    inputs = torch.randn(5, 32, generator=numbers, dtype=torch.float64)
    pairs = []
    for outputs in (20, 24):
        weight = torch.randn(8, 32, generator=numbers, dtype=torch.float64)
        slopes = torch.randn(5, outputs, generator=numbers, dtype=torch.float64)
        pairs.append((slopes.T @ inputs @ weight.T, weight, [ROUNDING]))
    space = hard_behind("layer", pairs)
    assert space.size == 5.0
    assert float(space.distance(inputs).max()) < ROUNDING
    assert float(space.distance(torch.randn(50, 32, generator=numbers, dtype=torch.float64)).min()) > 1e-3


def test_an_adapter_that_misses_inputs_does_not_count_and_a_full_one_shows_nothing() -> None:
    numbers = torch.Generator().manual_seed(4)
    inputs = torch.randn(5, 32, generator=numbers, dtype=torch.float64)
    weight = torch.randn(8, 32, generator=numbers, dtype=torch.float64)
    slopes = torch.randn(5, 20, generator=numbers, dtype=torch.float64)
    whole = (slopes.T @ inputs @ weight.T, weight, [ROUNDING])
    slopes[0] = 0.0  # as those of queries at the first place of a sentence
    partial = (slopes.T @ inputs @ weight.T, weight, [ROUNDING])
    space = hard_behind("layer", [partial, whole])
    assert float(space.distance(inputs).max()) < ROUNDING
    narrow = weight[:5]
    assert hard_behind("layer", [(slopes.T @ inputs @ narrow.T + torch.eye(20, 5), narrow, [ROUNDING])]) is None
    assert hard_behind("layer", []) is None
