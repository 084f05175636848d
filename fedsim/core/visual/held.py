"""What the layers of a language model hold of a prompt that was read, each as many tokens as it saw."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsim.core.past import KeyValues
from fedsim.core.visual.stream import Stream


class Held:
    """Keys and values of a prompt. A row holds the tokens that count alone, in their order.

    Attributes:
        store: keys and values by layer and row.
        patches: of each layer, the numbers of the visual tokens that it holds, (B, n); -1 fills up.
        following: of each layer, the position of the next token, (B,).
        front: tokens before the visual ones.
    """

    def __init__(self, depth: int, rows: int) -> None:
        self.store = KeyValues(depth, rows)
        self.patches: list[Tensor] = []
        self.following: list[Tensor] = []
        self.front = 0

    def add(self, layer: int, stream: Stream) -> None:
        """Count what a layer has read as held."""
        rows, tokens = stream.positions.shape
        if stream.there is None:
            self.store.advance(layer, [tokens] * rows)
        else:
            for row in range(rows):
                self.store.pick(row, [layer], stream.there[row].nonzero()[:, 0].tolist())
        self.patches.append(stream.patches)
        self.following.append(stream.positions[:, -1] + 1)
        self.front = stream.front

    def keep(self, layer: int, kept: Tensor) -> None:
        """Let a layer forget visual tokens; positions stay.

        Args:
            layer: its number.
            kept: mask (B, n) over `patches` of this layer.
        """
        kept = kept & (self.patches[layer] >= 0)
        most = int(kept.sum(1).max())
        order = (~kept).long().argsort(dim=1, stable=True)[:, :most]
        left = self.patches[layer].gather(1, order).where(kept.gather(1, order), -1)
        for row, (own, before) in enumerate(zip(kept, self.patches[layer] >= 0, strict=True)):
            places = self._places(layer, row, own[before])
            self.store.drop(row, [layer], self.store.held[layer][row])
            self.store.pick(row, [layer], places)
        self.patches[layer] = left

    def reindex(self, layer: int) -> None:
        """Have the next token's position in a layer be the number of tokens that it holds."""
        held = torch.tensor(self.store.held[layer], device=self.following[layer].device)
        self.following[layer] = held

    def mask(self, layer: int, like: Tensor) -> Tensor | None:
        """Return what is added to the scores of one new token, (B, 1, 1, S); None where rows hold as many."""
        held = self.store.held[layer]
        if min(held) == max(held):
            return None
        allowed = torch.zeros(len(held), max(held) + 1, dtype=torch.bool)
        for row, count in enumerate(held):
            allowed[row, : count + 1] = True
        mask = torch.zeros(allowed.shape, dtype=like.dtype).masked_fill_(~allowed, -torch.inf)
        return mask[:, None, None].to(like.device)

    def stepped(self, layer: int) -> None:
        """Count the key of a new token as held."""
        self.store.advance(layer, [1] * len(self.store.held[layer]))
        self.following[layer] = self.following[layer] + 1

    def _places(self, layer: int, row: int, kept: Tensor) -> list[int]:
        """Return the places of a row that stay, where its visual tokens stay or go by a mask."""
        behind = self.front + len(kept)
        stays = (self.front + kept.nonzero()[:, 0]).tolist()
        return [*range(self.front), *stays, *range(behind, self.store.held[layer][row])]
