"""Encoder outputs from their keys, by least squares."""

from itertools import permutations

import pytest
import torch
from torch import Tensor

from attacks.codebooks._features_from_keys import coarseness, group, solve_points
from tests.attacks.codebooks.keys import drawn


def projections(width: int, codebooks: int, size: int) -> Tensor:
    own = drawn(width, codebooks, size)
    return own / own.norm(dim=0)


@pytest.mark.parametrize(("width", "codebooks"), [(9, 5), (30, 5)])
def test_outputs_are_those_of_least_squares(width: int, codebooks: int) -> None:
    p, origin, targets = projections(width, codebooks, 4), drawn(width, seed=1), drawn(3, codebooks, 4, seed=2)
    known = torch.ones(3, codebooks, dtype=torch.bool)
    known[1, [2, 4]] = False
    known[2] = False
    found, ridged = solve_points(p, targets, known, origin), solve_points(p, targets, known, origin, 0.3)
    assert torch.equal(found[2], origin)
    for i in range(2):
        a = torch.cat([p[:, c].mT for c in range(codebooks) if known[i, c]])
        b = torch.cat([targets[i, c] for c in range(codebooks) if known[i, c]])
        assert torch.allclose(found[i], origin + torch.linalg.pinv(a) @ (b - a @ origin), atol=1e-9)
        # the mean of e ~ N(origin, I) given b = a e + N(0, 0.3)
        posterior = torch.linalg.inv(a.mT @ a / 0.3 + torch.eye(width)) @ (a.mT @ b / 0.3 + origin)
        assert torch.allclose(ridged[i], posterior, atol=1e-9)


def test_enough_exact_equations_give_the_output_itself() -> None:
    p, truly = projections(16, 5, 4), drawn(3, 16, seed=3)
    targets = torch.einsum("bm,mcd->bcd", truly, p)
    found = solve_points(p, targets, torch.ones(3, 5, dtype=torch.bool), drawn(16, seed=4))
    assert torch.allclose(found, truly, atol=1e-8)


def test_coarse_keys_are_told_from_fine_ones() -> None:
    """On a grid of step s over a square of side 1, a head errs by s / 2 at most and keys vary by 1 / 12."""
    ratio = []
    for step in (0.1, 0.05):
        ticks = torch.arange(0.0, 1.0, step)
        ratio.append(coarseness(torch.cartesian_prod(ticks, ticks)[None]))
    assert ratio[0] == pytest.approx(0.1**2 / 8 / (1 / 12), rel=0.05)
    assert ratio[1] == pytest.approx(ratio[0] / 4, rel=0.05)


def test_keys_of_records_in_unknown_order_are_told_apart_by_their_equations() -> None:
    p, truly, generator = projections(8, 10, 4), drawn(4, 8, seed=5), torch.Generator().manual_seed(0)
    heads = torch.einsum("bm,mcd->cbd", truly, p)
    order = torch.stack([torch.randperm(4, generator=generator) for _ in range(10)])
    mixed = heads.gather(1, order[..., None].expand_as(heads))
    valid = torch.ones(10, 4, dtype=torch.bool)
    chosen = group(p, mixed, valid, torch.zeros(8), generator)
    owners = order.gather(1, chosen.mT)  # (C, Q): whose key each record was given
    assert any(bool((owners == torch.tensor(way)).all()) for way in permutations(range(4)))
