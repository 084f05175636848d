"""Keys and values of each layer and row. Layers and rows may have different numbers of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fedsim.core.nets.kv_cache.positions import places_of

_LEAST = 64
_SHORT = 128  # keys per row up to which concatenation is faster than a buffer with gaps


class KVCache:
    """Keys and values of each layer's attention. Long rows are stored in buffers with spare capacity.

    A full buffer is doubled, so a token's keys are copied at most twice on average. Spare capacity is filled with
    zeros, because NaN would propagate through a masked sum.

    Attributes:
        held: number of valid keys of each row, by layer.
    """

    def __init__(self, depth: int, rows: int) -> None:
        self.held = [[0] * rows for _ in range(depth)]
        self._keys: list[Tensor | None] = [None] * depth
        self._values: list[Tensor | None] = [None] * depth

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values (B, H, T, F) to those of each row, and return the used part of the buffers.

        They become valid by `advance`. Name and arguments follow the transformers package.
        """
        held = self.held[layer]
        start = max(held)
        end = start + keys.shape[2]
        if end <= _SHORT and held.count(start) == len(held):
            self._keys[layer] = all_keys = _append_tensor(self._keys[layer], keys, start)
            self._values[layer] = all_values = _append_tensor(self._values[layer], values, start)
            return all_keys, all_values
        self._keys[layer] = all_keys = _write_rows(self._keys[layer], keys, held, end)
        self._values[layer] = all_values = _write_rows(self._values[layer], values, held, end)
        return all_keys[:, :, :end], all_values[:, :, :end]

    def advance(self, layer: int, counts: Sequence[int]) -> None:
        """Mark the newest keys of a layer as valid, with a count per row."""
        self.held[layer] = [count + new_count for count, new_count in zip(self.held[layer], counts, strict=True)]

    def drop(self, row: int, layers: Sequence[int], count: int = 1) -> None:
        """Invalidate the newest keys of a row in some layers."""
        for layer in layers:
            self.held[layer][row] -= count

    def pick(self, row: int, layers: Sequence[int], places: Sequence[int]) -> None:
        """Move keys after a row's valid keys directly behind the valid keys, in order, and mark them as valid.

        Args:
            row: index of the row.
            layers: layer indices.
            places: positions of the keys, from the first invalid key, ascending.
        """
        in_order = list(places) == list(range(len(places)))
        for layer in layers:
            start = self.held[layer][row]
            self.held[layer][row] += len(places)
            for table in () if in_order else (self._keys[layer], self._values[layer]):
                assert table is not None, "tokens that are not cached were generated before"
                chosen = torch.tensor([start + place for place in places], device=table.device)
                table[row, :, start : start + len(places)] = table[row].index_select(1, chosen)

    def keep_where(self, layer: int, kept: Tensor) -> None:
        """Keep a subset of a layer's first keys, in order.

        Args:
            layer: index of the layer.
            kept: mask (B, S) over the first S keys, valid or not.
        """
        places, self.held[layer] = places_of(kept)
        self._keys[layer], self._values[layer] = (
            _select_positions(table, places) for table in (self._keys[layer], self._values[layer])
        )

    def keep(self, places: Sequence[int]) -> KVCache:
        """Return a copy with the given rows, in this order; a row may occur twice."""
        kept = KVCache(len(self.held), len(places))
        kept.held = [[counts[place] for place in places] for counts in self.held]
        kept._keys = [_rows(table, places) for table in self._keys]
        kept._values = [_rows(table, places) for table in self._values]
        return kept


def _append_tensor(buffer: Tensor | None, new: Tensor, start: int) -> Tensor:
    return new if buffer is None or not start else torch.cat((buffer.narrow(2, 0, start), new), 2)


def _write_rows(buffer: Tensor | None, new: Tensor, held: Sequence[int], end: int) -> Tensor:
    if buffer is None or buffer.shape[2] < end:
        buffer = _grown(buffer, new, end)
    length = new.shape[2]
    if min(held) == max(held):
        buffer[:, :, held[0] : end] = new
        return buffer
    for row, start in enumerate(held):
        buffer[row, :, start : start + length] = new[row]
    return buffer


def _grown(buffer: Tensor | None, like: Tensor, end: int) -> Tensor:
    room = max(_LEAST, 2 ** (end - 1).bit_length())
    grown = like.new_zeros(*like.shape[:2], room, like.shape[3])
    if buffer is not None:
        grown[:, :, : buffer.shape[2]] = buffer
    return grown


def _select_positions(buffer: Tensor | None, places: Tensor) -> Tensor:
    assert buffer is not None, "kept tokens were generated before"
    rows, heads, tokens, _ = buffer.shape
    if rows == 1:
        return buffer.index_select(2, places[0])
    firsts = tokens * torch.arange(rows * heads, device=places.device).view(rows, heads, 1)
    return (
        buffer.flatten(0, 2)
        .index_select(0, (firsts + places[:, None]).flatten())
        .view(rows, heads, -1, buffer.shape[3])
    )


def _rows(buffer: Tensor | None, places: Sequence[int]) -> Tensor | None:
    return None if buffer is None else buffer[torch.tensor(places, dtype=torch.long, device=buffer.device)]
