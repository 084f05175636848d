"""Streams keep what is known of each token when tokens go."""

import torch
from torch import Tensor

from fedsim.core.nets.visual import Stream

FRONT, VISUAL, TEXT = 2, 5, 3
LENGTH = FRONT + VISUAL + TEXT


def stream(rows: int = 2, **more: Tensor) -> Stream:
    """Every state says its row and its place."""
    places = torch.arange(LENGTH).expand(rows, -1)
    hidden = torch.stack((torch.arange(rows)[:, None].expand_as(places), places), -1).double()
    patches = torch.arange(VISUAL).expand(rows, -1)
    return Stream(hidden, places, patches, FRONT, prompt=2, tokens=torch.zeros(rows, TEXT).long(), **more)


def test_segments_are_places_in_the_sequence() -> None:
    own = stream()
    assert (own.visual, own.question_slice, own.last, own.prediction_slice) == (
        slice(2, 7),
        slice(7, 9),
        8,
        slice(8, 10),
    )
    assert own.counts == [5, 5]


def test_kept_tokens_bring_everything_along() -> None:
    shares = torch.rand(2, LENGTH)
    found = stream(shares=shares).keep(torch.tensor([[0, 3], [1, 4]]))
    assert found.patches.tolist() == [[0, 3], [1, 4]]
    assert found.positions.tolist() == [[0, 1, 2, 5, 7, 8, 9], [0, 1, 3, 6, 7, 8, 9]]
    assert found.hidden_states[..., 1].tolist() == found.positions.tolist()
    assert torch.equal(found.shares, shares.gather(1, found.positions))
    assert (found.last, found.prediction_slice) == (5, slice(5, 7))
    assert found.reindex_positions().positions.tolist() == [list(range(7))] * 2


def test_rows_may_keep_different_numbers() -> None:
    found = stream().keep_where(torch.tensor([[True, False, True, False, True], [False, True, False, False, False]]))
    assert found.patches.tolist() == [[0, 2, 4], [1, -1, -1]]
    assert found.present is not None
    assert found.present.sum(1).tolist() == [8, 6]
    assert list(found.counts) == [3, 1]
    assert found.reindex_positions().positions.where(found.present, -1).tolist()[1] == [0, 1, 2, -1, -1, 3, 4, 5]
    again = found.keep_where(torch.tensor([[False, True, True], [True, True, True]]))
    assert again.patches.tolist() == [[2, 4], [1, -1]], "what fills up is not kept"


def test_rows_that_keep_as_many_need_no_filler() -> None:
    kept = torch.tensor([[True, False, True, False, False], [False, True, False, True, False]])
    assert stream().keep_where(kept).present is None
    ragged = stream().keep_where(torch.tensor([[True] * 5, [True] * 4 + [False]]))
    even = ragged.keep_where(torch.tensor([[True, True, False, False, False]] * 2))
    assert even.present is not None
    assert bool(even.present.all())


def test_masks_hide_later_tokens_and_fillers() -> None:
    assert stream().mask(causal=False) is None
    causal = stream().mask(causal=True)
    assert causal is not None
    assert torch.equal(causal[0, 0].isfinite(), torch.ones(LENGTH, LENGTH).tril().bool())
    ragged = stream().keep_where(torch.tensor([[True] * 5, [True] + [False] * 4]))
    mask = ragged.mask(causal=True)
    assert mask is not None
    assert mask[1, 0, -1].isfinite().tolist() == [True] * 3 + [False] * 4 + [True] * 3


def test_notes_are_added() -> None:
    own = stream().with_notes(a=torch.ones(2)).with_notes(b=torch.zeros(2))
    assert set(own.keep(torch.zeros(2, 1).long()).notes) == {"a", "b"}
