"""Benchmarks of visual tokens: points, costs, the figure, and what places tell."""

from pathlib import Path

import pytest
import torch

from benchmarks.visual_side_channel import share_told
from benchmarks.visual_tokens import Contender, Point, _costs, contenders, draw, point
from fedsim.bench import grids
from fedsim.bench.grid_accuracy import MEASURED, questions
from fedsim.metrics.statistics import wilson


def test_a_point_counts_the_tokens_of_every_layer() -> None:
    plain, batches = grids.fresh(), {"position": questions("position", 6, 0)}
    found = {contender.label: point(contender, plain, batches) for contender in contenders(16)}  # type: ignore[arg-type]
    assert {label: (own.tokens, own.last) for label, own in found.items()} == {
        "oracle": (16, 16), "class token": (16, 16), "attention, layer 2": (40, 16), "random": (16, 16),
    }  # fmt: skip
    assert all(own.right["position"].n == 6 for own in found.values())
    assert len(plain.reducers) == 0


def test_costs_fall_with_the_tokens() -> None:
    batch = questions("position", 1, 0)
    plain, (reduced,) = grids.fresh(), Contender("", "random-tokens", {"kept": 32}).models(grids.fresh())
    (prompt, token), (less, shorter) = _costs(plain, batch), _costs(reduced, batch)
    d, m = 128, 344
    assert prompt == 6 * (71 * (4 * d * d + 3 * d * m) + 2 * 71 * 71 * d)
    assert less == 6 * (39 * (4 * d * d + 3 * d * m) + 2 * 39 * 39 * d)
    assert token - shorter == 6 * 2 * 32 * d


def test_the_figure_is_written(tmp_path: Path) -> None:
    right = {kind: wilson(3, 4) for kind in MEASURED}
    draw([Point("keep-all", 64, 64, right), Point("oracle", 16, 16, right)], tmp_path / "own.png")
    assert (tmp_path / "own.png").read_bytes()[:4] == b"\x89PNG"


def test_places_tell_what_decides_them_and_nothing_else() -> None:
    source = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (400,), generator=source)
    places = torch.nn.functional.one_hot(labels, 8) == 1
    right, _ = share_told(places, labels)
    assert bool(right.all())
    blind, usual = share_told(torch.zeros(400, 8), labels)
    assert float(blind.double().mean()) == pytest.approx(usual)
