"""What the benchmarks on text measure with: chance, intervals, and a search for the text of two views."""

from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks._contrastive_text import Contrast, searched
from benchmarks._rows import with_interval
from benchmarks.text_attacks import chance
from fedsim.core.losses import IGNORED
from fedsim.core.types import Batch, DropoutSite, Truth, Update
from fedsim.federation.client import local_training
from fedsim.scenario import parse
from fedsim.scenario import world as worlds
from fedsim.scenario.world import World


def test_chance_is_the_mean_over_all_orders_of_a_sentence() -> None:
    sentence = (5, 7, 5, 9, 5)
    labels = torch.tensor([[1, 1, 1, 1, 1, IGNORED]])
    batch = Batch(torch.tensor([[*sentence, 5]]), labels)
    truth = Truth((batch,), ((),), Update("gradient", {}, {}, 1, 0.0), (batch,))
    orders = list(permutations(sentence))
    right = sum(own == other for order in orders for own, other in zip(order, sentence, strict=True))
    assert chance(truth) == pytest.approx(right / (len(orders) * len(sentence)))


def test_an_interval_holds_the_mean_and_has_no_width_where_all_are_equal() -> None:
    spread = with_interval("read", "plain", [0.0, 0.5, 1.0, 0.25], "share")
    assert spread.value == spread.median == pytest.approx(0.4375)
    assert 0 <= spread.minimum < spread.value < spread.maximum <= 1
    equal = with_interval("read", "plain", [0.3] * 5, "share")
    assert (equal.minimum, equal.maximum) == pytest.approx((0.3, 0.3))


def encoders(path: Path, dropout: float) -> World:
    path.write_text("\n".join(f"red dog {n},old cat {n}th,{n % 6}" for n in range(40)))
    raw: dict[str, Any] = {
        "title": "test",
        "seed": 3,
        "data": {"name": "sentence-pairs", "path": str(path), "length": 8},
        "model": {"name": "tiny-encoder", "width": 16, "hidden": 16, "heads": 2, "dropout": dropout},
        "components": [{"name": "esimcse", "dup_rate": 0.0, "queue_size": 0}],
        "federation": {"clients": 3, "batch_size": 2},
    }
    return worlds.build(parse(raw, "test"))


def test_the_gradient_of_two_views_is_that_of_the_true_text_alone_and_a_search_comes_no_further_away(
    tmp_path: Path,
) -> None:
    own = encoders(tmp_path / "pairs.csv", 0.2)
    update, truth = local_training(own, own.models.first_weights, 1, 0)
    tokens = truth.private[0].inputs
    sites = tuple(DropoutSite(s.call, s.name, s.rate, (2, *s.shape[1:])) for s in own.models.sites)
    contrast = Contrast(
        own.models.holding(own.models.first_weights), own.stack.loss(1), update.tensors, sites, truth.masks[0]
    )
    assert contrast.distance(tokens) < 1e-5
    assert contrast.distance(tokens.flip(0)) > 0.1
    spec = own.data.dataset.spec
    given = torch.isin(tokens, torch.tensor([spec.padding or 0, *spec.borders]))
    first, last = searched(contrast, torch.where(given, tokens, -1), 40, torch.Generator().manual_seed(0))
    assert contrast.distance(last) < contrast.distance(first)
    assert torch.equal(last[given], tokens[given])
    assert set(first[~given].tolist()) <= set(contrast.words.tolist())
