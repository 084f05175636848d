"""A forward pass over new tokens, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedsim.core.nets.kv_cache.draft import Draft
from fedsim.core.nets.kv_cache.key_values import KVCache
from fedsim.core.nets.kv_cache.stack import LayerStack


class IncrementalForward:
    """A forward pass over new tokens of each row. Decoders that skip or replace layers call it layer by layer.

    Rows with fewer new tokens than the longest are padded at the end; no token attends to padding.

    Args:
        stack: the model.
        store: receives keys and values.
        texts: new tokens of each row.
        starts: position of the first new token of each row.
        drafts: draft of each row, processed in the same pass.
        device: device of the model.

    Attributes:
        counts: number of tokens of each row in the pass, including the draft.
    """

    def __init__(
        self,
        stack: LayerStack,
        store: KVCache,
        texts: Sequence[Sequence[int]],
        starts: Sequence[int],
        drafts: Sequence[Draft],
        device: torch.device | None = None,
    ) -> None:
        self.counts = [len(text) + len(draft) for text, draft in zip(texts, drafts, strict=True)]
        self._stack, self._store, self._device = stack, store, device
        self._length = max(self.counts)
        rows: list[list[int]] = []
        positions: list[list[int]] = []
        for text, start, draft in zip(texts, starts, drafts, strict=True):
            last = start + len(text) - 1
            filled = self._length - len(text) - len(draft)
            rows.append([*text, *draft.tokens, *[0] * filled])
            positions.append(
                [*range(start, last + 1), *(last + depth for depth in draft.depths()), *[last + 1] * filled]
            )
        self._tokens = torch.tensor(rows, device=device)
        self._positions = torch.tensor(positions, device=device)
        self._sees = self._sight(texts, drafts)
        self._masks: dict[tuple[int, ...], Tensor | None] = {}
        self._place: object = None

    def embed(self) -> Tensor:
        """Return the hidden states (B, T, width) before the first layer."""
        hidden = self._stack.embed(self._tokens)
        self.locate(hidden)
        return hidden

    def locate(self, hidden: Tensor) -> None:
        """Compute the layers' position inputs; called directly by a pass that starts at a later layer."""
        self._place = self._stack.place(hidden, self._positions)

    def layer(self, number: int, hidden: Tensor) -> Tensor:
        """Return a layer's output; its keys and values are stored."""
        held = tuple(self._store.held[number])
        if held not in self._masks:
            self._masks[held] = self._mask(held, hidden)
        output = self._stack.layer(number, hidden, self._place, self._masks[held], self._store)
        self._store.advance(number, self.counts)
        return output

    def _sight(self, texts: Sequence[Sequence[int]], drafts: Sequence[Draft]) -> Tensor | None:
        """Return the attention mask among new tokens, shape (B or 1, T, T); None for a single token."""
        if self._length == 1:
            return None
        causal = torch.ones(1, self._length, self._length, dtype=torch.bool).tril()
        if not any(map(_has_branches, drafts)):
            return causal
        sees = causal.repeat(len(texts), 1, 1)
        for row, (text, draft) in enumerate(zip(texts, drafts, strict=True)):
            drafted = slice(len(text), len(text) + len(draft))
            sees[row, drafted, drafted] = draft.sees()
        return sees

    def _mask(self, held: tuple[int, ...], hidden: Tensor) -> Tensor | None:
        if self._sees is None and min(held) == max(held):
            return None
        sees = torch.ones(1, 1, 1, dtype=torch.bool) if self._sees is None else self._sees
        rows = len(sees) if min(held) == max(held) else len(held)
        allowed = torch.zeros(rows, self._length, max(held) + self._length, dtype=torch.bool)
        for row in range(rows):
            allowed[row, :, : held[row]] = True
            allowed[row, :, held[row] : held[row] + self._length] = sees[row % len(sees)]
        mask = torch.zeros(allowed.shape, dtype=hidden.dtype).masked_fill_(~allowed, -torch.inf)
        return mask[:, None].to(hidden.device)


def _has_branches(draft: Draft) -> bool:
    return draft.parents != tuple(range(-1, len(draft) - 1))
