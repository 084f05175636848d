"""Places of what stays in rows, of one length and of others."""

import torch

from fedsim.core.nets.kv_cache.positions import places_of


def test_rows_list_what_stays_in_order_and_shorter_ones_are_filled_up() -> None:
    generator = torch.Generator().manual_seed(0)
    for kept in (torch.rand(4, 9, generator=generator) < 0.5, torch.eye(4, 9).bool(), torch.ones(2, 3).bool()):
        places, counts = places_of(kept)
        assert counts == [len(row.nonzero()) for row in kept]
        for place, row, count in zip(places, kept, counts, strict=True):
            assert place[:count].tolist() == row.nonzero()[:, 0].tolist()
            assert not row[place[count:]].any()


def test_where_nothing_stays_there_are_no_places() -> None:
    places, counts = places_of(torch.zeros(2, 3).bool())
    assert places.shape == (2, 0)
    assert counts == [0, 0]
