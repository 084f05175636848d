"""Key-value caches of a language model's layers for a prompt, with separate visual tokens per layer."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsim.core.nets.kv_cache import KVCache
from fedsim.core.nets.kv_cache.positions import places_of
from fedsim.core.nets.visual.stream import Stream


class PromptCache:
    """Keys and values of a prompt. A row contains only the tokens that count, in order.

    Attributes:
        store: keys and values by layer and row.
        patches: patch numbers of each layer's visual tokens, (B, n); -1 for padding.
        following: position of the next token, by layer, (B,).
        front: number of tokens before the visual tokens.
    """

    def __init__(self, depth: int, rows: int) -> None:
        self.store = KVCache(depth, rows)
        self.patches: list[Tensor] = []
        self.following: list[Tensor] = []
        self.front = 0

    def add(self, layer: int, stream: Stream) -> None:
        """Mark the tokens that a layer processed as cached."""
        rows, tokens = stream.positions.shape
        if stream.present is None:
            self.store.advance(layer, [tokens] * rows)
        else:
            self.store.keep_where(layer, stream.present)
        self.patches.append(stream.patches)
        self.following.append(stream.positions[:, -1] + 1)
        self.front = stream.front

    def keep(self, layer: int, kept: Tensor) -> None:
        """Remove visual tokens from a layer's cache; positions stay.

        Args:
            layer: index of the layer.
            kept: mask (B, n) over `patches` of this layer.
        """
        is_held = self.patches[layer] >= 0
        kept = kept & is_held
        if torch.equal(kept, is_held):
            return
        self.store.keep_where(layer, self._stays(layer, kept, is_held))
        places, counts = places_of(kept)
        left = self.patches[layer].gather(1, places)
        self.patches[layer] = left if min(counts) == max(counts) else left.where(kept.gather(1, places), -1)

    def reindex(self, layer: int) -> None:
        """Set the next token's position in a layer to the number of cached tokens."""
        held = torch.tensor(self.store.held[layer], device=self.following[layer].device)
        self.following[layer] = held

    def mask(self, layer: int, like: Tensor) -> Tensor | None:
        """Return the additive attention mask of a new token, (B, 1, 1, S); None if rows have equal lengths."""
        held = self.store.held[layer]
        if min(held) == max(held):
            return None
        allowed = torch.zeros(len(held), max(held) + 1, dtype=torch.bool)
        for row, count in enumerate(held):
            allowed[row, : count + 1] = True
        mask = torch.zeros(allowed.shape, dtype=like.dtype).masked_fill_(~allowed, -torch.inf)
        return mask[:, None, None].to(like.device)

    def mark_cached(self, layer: int) -> None:
        """Mark the key of a new token as cached."""
        self.store.advance(layer, [1] * len(self.store.held[layer]))
        self.following[layer] = self.following[layer] + 1

    def _stays(self, layer: int, kept: Tensor, is_held: Tensor) -> Tensor:
        """Return the mask (B, S) of a layer's keys to keep, from masks (B, n) of kept and of valid visual tokens."""
        if bool(is_held.all()):
            everywhere = kept.new_ones(len(kept), max(self.store.held[layer]))
            everywhere[:, self.front : self.front + kept.shape[1]] = kept
            return everywhere
        in_order = kept.gather(1, (~is_held).long().argsort(dim=1, stable=True))
        held = torch.tensor(self.store.held[layer], device=kept.device)[:, None]
        places = torch.arange(int(held.max()), device=kept.device)
        visual = (places - self.front).expand(len(kept), -1)
        is_visual = (visual >= 0) & (visual < is_held.sum(1, keepdim=True))
        return (places < held) & (~is_visual | in_order.gather(1, visual.clamp(0, kept.shape[1] - 1)))
