"""Training of rcp: what is trained, what the loss measures."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedsim.bench import grids, pruning
from fedsim.core.nets.visual import Stream


def test_moments_are_those_of_a_mean_over_tokens() -> None:
    own = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    assert pruning.moment_gap(own, own).item() == 0
    shuffled = own[torch.randperm(9, generator=torch.Generator().manual_seed(1))]
    assert pruning.moment_gap(own, shuffled).item() == pytest.approx(0, abs=1e-12)  # sums in another order
    spread = own.var(0, correction=0)
    assert pruning.moment_gap(own + 2, own).item() == pytest.approx(4 / spread.mean().item(), rel=1e-5)
    wider = pruning.moment_gap(2 * (own - own.mean(0)), own - own.mean(0), variance=5.0)
    assert wider.item() == pytest.approx(5 * 9 * (spread / spread.mean()).square().mean().item(), rel=1e-5)
    torch.testing.assert_close(pruning.moment_gap(3 * own, 30 * own), pruning.moment_gap(own, 10 * own))


def test_the_share_that_is_read_is_a_mean_over_layers() -> None:
    places = torch.zeros(1, 6, dtype=torch.long)
    plain = Stream(torch.zeros(1, 6, 2), places, places[:, :4], front=1)
    half = replace(plain, shares=torch.tensor([[1.0, 1.0, 0.0, 1.0, 0.0, 1.0]]))
    assert pruning.read_share([plain, half, half]).item() == pytest.approx((1 + 0.5 + 0.5) / 3)


@pytest.mark.parametrize("mends", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_only_the_parts_are_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mends: bool) -> None:
    monkeypatch.setattr(pruning, "BATCH", 4)
    monkeypatch.setattr(pruning, "_IMAGES", 8)
    plain = grids.fresh()
    before, model = copy.deepcopy(plain.state_dict()), pruning.with_parts(plain)
    first = copy.deepcopy(model.state_dict())
    told: list[int] = []
    recipe = pruning.PruningRecipe(0.5, mends=mends, steps=2)
    pruning.train(model, plain, recipe, tmp_path / "rcp", lambda step: told.append(step.number))
    assert told == [1, 2]
    assert all(torch.equal(own, plain.state_dict()[name]) for name, own in before.items())
    changed = {name for name, own in first.items() if not torch.equal(own, model.state_dict()[name])}
    assert changed
    assert all(name.startswith("reducers.") for name in changed)
    of_repairs = {name.rpartition(".")[2] for name in changed if "repairs" in name}
    assert (of_repairs == {"strength"}) != mends, "without mending it is set to 0, and nothing else changes"
