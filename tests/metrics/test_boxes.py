"""Boxes pixel by pixel, and images put together again from the composites that hold their pixels."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim.metrics.boxes import CutMixRecord, gather, inside, name_pasted_maps

EDGES = st.tuples(*[st.integers(0, 5)] * 4).map(
    lambda e: [min(e[0], e[1]), max(e[0], e[1]), min(e[2], e[3]), max(e[2], e[3])]
)


@given(st.lists(EDGES, min_size=1, max_size=4))
def test_pixels_inside_are_those_between_the_edges(edges: list[list[int]]) -> None:
    boxes = torch.tensor(edges)
    cover = inside(boxes, 5, 6)
    for own, (top, bottom, left, right) in zip(cover, edges, strict=True):
        expected = [[top <= r < bottom and left <= c < right for c in range(6)] for r in range(5)]
        assert own.tolist() == expected


@given(EDGES, st.permutations(range(4)))
def test_with_one_box_nothing_is_lost(edges: list[int], order: list[int]) -> None:
    images = torch.randn(4, 2, 5, 6, generator=torch.Generator().manual_seed(0))
    partners, boxes = torch.tensor(order), torch.tensor([edges] * 4)
    composites = torch.where(inside(boxes, 5, 6)[:, None], images[partners], images)
    assert torch.equal(gather(composites, partners, boxes), images)


def test_draws_are_read_by_the_last_word_of_their_names() -> None:
    weights, boxes, maps = torch.ones(2), torch.zeros(2, 4), torch.ones(2, 4)
    draws = {"cutmix.weights": weights, "cutmix.boxes": boxes, "cutmix.map-boxes": maps}
    found = CutMixRecord.written_in(draws)
    assert found is not None
    assert found.partners is None
    assert found.boxes is boxes
    pasted = name_pasted_maps(draws)
    assert pasted is not None
    assert pasted.boxes is maps
    assert CutMixRecord.written_in({"cutmix.boxes": boxes}) is None
    assert name_pasted_maps({"cutmix.weights": weights}) is None
