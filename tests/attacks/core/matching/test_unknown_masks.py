"""Masks as unknowns: how they start, relax, and are pulled to their rate."""

from typing import Any

import pytest
import torch

from attacks.core.matching.attack import MaskSearchConfig
from attacks.core.matching.unknown_masks import OptimisedMasks, Relaxation, mask_prior
from attacks.core.matching.unknowns import SearchProgress
from fedsim.core.types import (
    DropoutSite,
)


def test_the_mask_prior_is_the_sum_of_the_sites_deviations_row_by_row() -> None:
    masks = (torch.rand(3, 2, 4), torch.rand(3, 2, 5, 5))
    ours = mask_prior(masks, [0.25, 0.5])
    for row in range(3):
        expected = abs(1 - float(masks[0][row].mean()) - 0.25) + abs(1 - float(masks[1][row].mean()) - 0.5)
        assert float(ours[row]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.paper_step("dropout-inversion", "price of masks away from the dropout rate")
def test_the_mask_prior_counts_known_entries_with_their_values_and_known_sites_not_at_all() -> None:
    sites = (DropoutSite(0, "a", 0.5, (1, 4)), DropoutSite(1, "b", 0.25, (1, 2)))
    known = {0: torch.tensor([[0.0, 0.0, torch.nan, torch.nan]]), 1: torch.tensor([[1.0, 1.0]])}
    unknown = OptimisedMasks(sites=sites, begin="ones", weight=1.0, known_masks=(known,))
    masks = unknown.forward_values(tuple(site[None] for site in unknown.first(torch.Generator())), SearchProgress())
    assert masks[0].tolist() == [[[0.0, 0.0, 1.0, 1.0]]]
    assert float(torch.as_tensor(unknown.prior(masks))) == 0.0


@pytest.mark.parametrize(
    ("relaxation", "expected"),
    [
        ("box", [0.0, 0.2, 0.7]),
        ("straight-through", [0.0, 0.0, 1.0]),
        ("sigmoid", [0.5, 0.549834, 0.668188]),
    ],
)
def test_relaxations(relaxation: Relaxation, expected: list[float]) -> None:
    site = DropoutSite(0, "site", 0.25, (1, 3))
    unknown = OptimisedMasks(sites=(site,), begin="mean", relaxation=relaxation)
    variables = torch.tensor([[[0.0, 0.2, 0.7]]], requires_grad=True)
    (mask,) = unknown.forward_values((variables,), SearchProgress(completed_share=0.5))
    assert mask.flatten().tolist() == pytest.approx(expected, abs=1e-6)
    (slope,) = torch.autograd.grad(mask.sum(), variables)
    values = torch.tensor(expected)
    wanted = values * (1 - values) if relaxation == "sigmoid" else torch.ones(3)
    assert torch.allclose(slope.flatten(), wanted, atol=1e-5)


@pytest.mark.paper_step("dropout-inversion", "first masks drawn as the client's")
@pytest.mark.parametrize("relaxation", ["box", "sigmoid", "straight-through"])
@pytest.mark.parametrize("first", ["bernoulli", "ones", "mean"])
def test_first_masks(relaxation: Relaxation, first: Any) -> None:
    site = DropoutSite(0, "site", 0.25, (1, 4000))
    unknown = OptimisedMasks(sites=(site,), begin=first, relaxation=relaxation)
    variables = unknown.first(torch.Generator().manual_seed(0))
    (mask,) = unknown.forward_values(tuple(v[None] for v in variables), SearchProgress())
    expected = 1.0 if first == "ones" or (relaxation, first) == ("straight-through", "mean") else 0.75
    assert float(mask.mean()) == pytest.approx(expected, abs=0.03)
    assert bool(((mask >= 0) & (mask <= 1)).all())


def test_settings_of_a_search_give_the_masks_their_step_and_weight_unless_an_option_differs() -> None:
    sites = (DropoutSite(0, "a", 0.5, (1, 4)),)
    config = MaskSearchConfig(learning_rate=0.3, mask_weight=0.2)
    assert config.searched_masks(sites).blocks == (OptimisedMasks(rate=0.3, weight=0.2, sites=sites),)
    other = OptimisedMasks(rate=0.7, weight=0.2, sites=sites, begin="ones")
    assert config.searched_masks(sites, rate=0.7, begin="ones").blocks == (other,)


def test_the_mask_prior_pulls_the_keep_rate_of_each_row_to_its_place() -> None:
    mask = torch.stack([torch.ones(1, 200), torch.zeros(1, 200)]).requires_grad_()
    optimizer = torch.optim.Adam([mask], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        mask_prior((mask,), [0.25]).sum().backward()
        optimizer.step()
        with torch.no_grad():
            mask.clamp_(0, 1)
    for row in mask:
        assert abs(1 - row.mean().item() - 0.25) < 0.03
        assert (row.max() - row.min()).item() == 0.0
