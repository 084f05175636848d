"""The benchmark of training under PyramidDrop: what is trained, what is kept, and how far each token went."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import pyramid_training as own
from fedsim.bench import grids
from fedsim.bench.grid_accuracy import questions

ALL, HALVED = own._WAYS.values()


@pytest.fixture(scope="module")
def plain() -> Any:
    return grids.fresh()


def test_a_pyramid_of_all_tokens_is_the_model_itself(plain: Any) -> None:
    batch = questions("position", 3, 0)
    asked = batch.inputs, batch.given["question"]
    with torch.no_grad():
        right, same, dropped = (
            plain(*asked),
            own.with_pyramid(plain, ALL)(*asked),
            own.with_pyramid(plain, HALVED)(*asked),
        )
    assert torch.equal(same, right)
    assert not torch.equal(dropped, right)


@pytest.mark.slow
def test_projector_and_language_model_are_trained_and_the_encoder_is_not(
    plain: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(own, "BATCH", 2)
    monkeypatch.setattr(own, "IMAGES", 4)
    monkeypatch.setattr(own, "STEPS", 2)
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path))
    first = copy.deepcopy(plain.state_dict())
    made = own.trained(plain, HALVED).state_dict()
    assert all(torch.equal(weights, first[name]) for name, weights in plain.state_dict().items())
    changed = {name.split(".")[0] for name, weights in first.items() if not torch.equal(weights, made[name])}
    assert changed == {"projector", "embed_tokens", "layers", "norm", "lm_head"}
    monkeypatch.setattr(own, "train", lambda *_: pytest.fail("it is made once"))
    again = own.trained(plain, HALVED).state_dict()
    assert all(torch.equal(weights, again[name]) for name, weights in made.items())
    (folder,) = tmp_path.iterdir()
    assert folder.name == "pyramid-0.5-0.25-anew-2"


def test_every_token_went_one_way_and_only_what_the_gradient_reaches_counts(plain: Any) -> None:
    batch = questions("presence", 1, 0)
    pixels, tokens, stage = own._gradients(own.with_pyramid(plain, HALVED).eval(), batch)
    assert {name: int(chosen.sum()) for name, chosen in stage.items()} == {
        "to the end": 16, "dropped before layer 4": 16, "dropped before layer 2": 32,
    }  # fmt: skip
    assert torch.stack(list(stage.values())).sum(0).eq(1).all()
    assert pixels.shape == tokens.shape == (64,)
    assert bool((tokens > 0).all()), "layers 0 and 1 read every token"


def test_shares_of_the_mean_token_add_up_to_one_for_each(plain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "EXAMPLES", 3)
    rows = {row.name: row for row in own.gradient_rows(own.with_pyramid(plain, HALVED).eval(), "own")}
    weights = {"read to the end": 16, "dropped before layer 4": 16, "dropped before layer 2": 32}
    assert all(row.n == 3 for row in rows.values())
    for place in ("pixels", "projected tokens"):
        total = [
            count * next(row.value for name, row in rows.items() if place in name and way.removeprefix("read ") in name)
            for way, count in weights.items()
        ]
        assert sum(total) / 64 == pytest.approx(1, rel=1e-5)  # single precision
