"""Heads behind learnt backbones: who learns from what, and which images are counted as isolated and undecided."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import transferred_heads
from benchmarks.realism import Network

_SMOOTH = Network("MLP", {"name": "digits"}, {"name": "mlp", "width": 80, "depth": 1, "bias": True}, 1400, 2)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path / "cache"))


def test_the_backbone_is_learnt_from_images_that_no_attacked_client_holds() -> None:
    place = transferred_heads.place_of(_SMOOTH, "trained")
    data = place.world.data
    held = torch.cat([data.dataset.train.inputs[data.shares[client]] for client in range(10)])
    assert len(place.known_images) + len(held) == len(data.dataset.train)
    pixels = {own.numpy().tobytes() for own in held}
    assert all(own.numpy().tobytes() not in pixels for own in place.known_images)


def test_clients_receive_the_learnt_backbone_with_a_head_that_only_the_server_wrote() -> None:
    fresh, trained = (transferred_heads.place_of(_SMOOTH, state) for state in ("fresh", "trained"))
    plain, learnt = (own.honest.models.first_weights for own in (fresh, trained))
    crafted = trained.world.models.first_weights
    changed = {name for name, own in plain.items() if not torch.equal(own, learnt[name])}
    assert changed
    assert all("4." not in name[:2] for name in changed)  # the head is drawn anew
    assert trained.world.models.crafted_changes.tensors.keys() == {"4.0.weight", "4.0.bias"}
    assert all(torch.equal(crafted[name], own) for name, own in learnt.items() if not name.startswith("4.0."))


def test_images_come_back_exactly_from_more_smooth_features_than_pixels_and_blind_guesses_do_not() -> None:
    found = transferred_heads.rows_of(transferred_heads.Case(_SMOOTH, "fresh", 1))
    rows = {(row.name, row.setting.split(",")[0]): row for row in found}
    isolated = rows["images isolated", "MLP"].value
    assert isolated >= 0.5
    assert rows["images identified", "head-inversion"].value == isolated
    assert rows["images identified", "granted"].value == 1
    assert rows["PSNR, median", "granted"].value > 40
    assert rows["images identified", "mean image"].value < 0.5
    assert rows["images undecided", "granted"].value == 0
    assert rows["features that are no image's", "MLP"].value == 0
    assert rows["clients that refuse", "honest head"].value == 0


def test_undecided_is_an_image_whose_search_ended_early_and_which_is_not_identified() -> None:
    items = [SimpleNamespace(values={"identified": value}) for value in (1.0, 0.0, 0.0, 0.0)]
    apart = torch.tensor([0.5, 0.5, 0.0])
    # The last image has no guess, the third one is not identified by a guess that has its features.
    assert transferred_heads._count_undecided(items, torch.tensor([0, 1, 2, 3]), apart) == 1  # type: ignore[arg-type]


def test_a_refusal_is_counted_and_told() -> None:
    place = transferred_heads.place_of(_SMOOTH, "fresh")
    weights = dict(place.world.models.first_weights)
    weights["4.0.weight"] = torch.ones_like(weights["4.0.weight"])
    server = SimpleNamespace(models=SimpleNamespace(first_weights=weights))
    crafted, honest = transferred_heads._refusals(place._replace(world=server), 2)  # type: ignore[arg-type]
    assert (crafted.value, honest.value, crafted.n) == (1, 0, 2)
    assert "'4.0.weight': energy in one direction 1, bound 0.5" in crafted.note
