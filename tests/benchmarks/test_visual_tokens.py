"""Benchmarks of visual tokens: points, costs, the figure, and what places tell."""

from pathlib import Path

import pytest
import torch

from benchmarks.visual_side_channel import share_told
from benchmarks.visual_tokens import Contender, Point, contenders, costs, draw, point
from fedsim.bench import grids
from fedsim.bench.grid_accuracy import MEASURED, questions
from fedsim.core.visual import LayerView, Stream, VisualReducer
from fedsim.metrics.statistics import wilson


def test_a_point_counts_the_tokens_of_every_layer() -> None:
    plain, batches = grids.fresh(), {"position": questions("position", 6, 0)}
    found = {contender.label: point(contender, plain, batches) for contender in contenders(16)}  # type: ignore[arg-type]
    assert {label: (own.tokens, own.last) for label, own in found.items()} == {
        "oracle": (16, 16), "class token": (16, 16), "attention, layer 2": (40, 16), "random": (16, 16),
    }  # fmt: skip
    assert all(own.right["position"].n == 6 for own in found.values())
    assert len(plain.reducers) == 0


WIDTH, UNITS, LAYERS, TOKENS = 128, 344, 6, 71  # of the language model, which reads 64 visual tokens and 7 others


def prompt_of(tokens: int) -> int:
    """What a layer multiplies for a prompt."""
    return tokens * (4 * WIDTH * WIDTH + 3 * WIDTH * UNITS) + 2 * tokens * tokens * WIDTH


def test_costs_fall_with_the_tokens() -> None:
    batch = questions("position", 1, 0)
    plain, (reduced,) = grids.fresh(), Contender("", "random-tokens", {"kept": 32}).models(grids.fresh())
    (prompt, token), (less, shorter) = costs(plain, batch), costs(reduced, batch)
    assert prompt > LAYERS * prompt_of(TOKENS), "the encoder runs too"
    assert prompt - less == LAYERS * (prompt_of(TOKENS) - prompt_of(TOKENS - 32))
    assert token - shorter == LAYERS * 2 * 32 * WIDTH


class Asking(VisualReducer):
    """Asks one layer for the attention of the last token before the layer runs, and drops nothing."""

    def before_layer(self, stream: Stream, layer: LayerView) -> Stream:
        if layer.number == 1:
            layer.attention(stream, slice(stream.last, stream.last + 1))
        return stream


class Ragged(VisualReducer):
    """Keeps 8 visual tokens of the first question and 16 of the second."""

    def projected(self, stream: Stream) -> Stream:
        return stream.keep_where(torch.arange(64) < torch.tensor([[8], [16]]))


def test_ranking_and_fillers_cost_what_they_multiply() -> None:
    batch = questions("position", 2, 0)
    plain, asked, ragged = grids.fresh(), grids.fresh(), grids.fresh()
    asked.reducers.append(Asking())
    ragged.reducers.append(Ragged())
    (prompt, _), (ranked, _), (filled, _) = costs(plain, batch), costs(asked, batch), costs(ragged, batch)
    assert ranked - prompt == 2 * ((1 + TOKENS) * WIDTH * WIDTH + TOKENS * WIDTH)
    assert prompt - filled == 2 * LAYERS * (prompt_of(TOKENS) - prompt_of(16 + 7)), "the first question is filled up"


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
