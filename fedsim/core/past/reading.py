"""One forward pass over new tokens, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedsim.core.past.draft import Draft
from fedsim.core.past.key_values import KeyValues
from fedsim.core.past.stack import LayerStack


class Reading:
    """One forward pass over new tokens of each row. A decoder that skips or replaces layers runs them itself.

    Rows with fewer new tokens than the longest are filled up behind them; nothing sees what fills.

    Args:
        stack: the model.
        store: where keys and values go.
        texts: new tokens of each row, behind `starts` others.
        starts: position of the first of them.
        drafts: what may follow each row, read with it.
        device: of the model.

    Attributes:
        counts: tokens of each row that are read, with the draft.
    """

    def __init__(
        self,
        stack: LayerStack,
        store: KeyValues,
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
        """Return the hidden states (B, T, width) in front of the first layer."""
        hidden = self._stack.embed(self._tokens)
        self.locate(hidden)
        return hidden

    def locate(self, hidden: Tensor) -> None:
        """Work out what layers are told of positions; for a pass that begins at a later layer with known states."""
        self._place = self._stack.place(hidden, self._positions)

    def layer(self, number: int, hidden: Tensor) -> Tensor:
        """Return what a layer makes of the hidden states; its keys and values are kept."""
        held = tuple(self._store.held[number])
        if held not in self._masks:
            self._masks[held] = self._mask(held, hidden)
        output = self._stack.layer(number, hidden, self._place, self._masks[held], self._store)
        self._store.advance(number, self.counts)
        return output

    def _sight(self, texts: Sequence[Sequence[int]], drafts: Sequence[Draft]) -> Tensor | None:
        """Return which new tokens each new one sees, shape (B or 1, T, T); None of a single token."""
        if self._length == 1:
            return None
        causal = torch.ones(1, self._length, self._length, dtype=torch.bool).tril()
        if not any(map(_has_branches, drafts)):
            return causal
        sees = causal.repeat(len(texts), 1, 1)
        for row, (text, draft) in enumerate(zip(texts, drafts, strict=True)):
            behind = slice(len(text), len(text) + len(draft))
            sees[row, behind, behind] = draft.sees()
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
