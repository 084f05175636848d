"""The parts of a key-value bottleneck: a frozen encoder, frozen keys that are looked up, and values that vote."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedsim.core.errors import NotApplicable

_ONE_VECTOR, _SEVERAL_POSITIONS, _FEATURE_MAP = 2, 3, 4  # dimensions of what an encoder returns
_AT_ONCE = 1 << 18  # numbers of a table of distances, so that it stays in the cache


class KeyLookup(nn.Module):
    """Nearest keys of C linear projections of every position. Nothing here is trained.

    Attributes:
        projections: P, shape (m, C, d_k).
        keys: shape (C, J, d_k).
        active: how many of the nearest keys are read.
    """

    def __init__(self, projections: Tensor, keys: Tensor, active: int) -> None:
        super().__init__()
        self.projections = nn.Parameter(projections, requires_grad=False)
        self.keys = nn.Parameter(keys, requires_grad=False)
        self.active = active

    def forward(self, features: Tensor, barred: Tensor | None = None) -> Tensor:
        """Return the keys of features (B, n, m) by number, nearest first, shape (B, C, active, n).

        Args:
            features: of n positions an example.
            barred: keys that are not to be found, boolean, shape (C, J); none when absent.
        """
        found = nearest(self.heads(features), self.keys, self.active, barred)
        return found.unflatten(1, features.shape[:2]).permute(1, 0, 3, 2)

    def heads(self, features: Tensor) -> Tensor:
        """Return the projections of features (B, n, m), shape (C, B n, d_k).

        Raises:
            NotApplicable: the features have another width.
        """
        if features.shape[-1] != len(self.projections):
            raise NotApplicable(
                f"its keys look at {len(self.projections)} features, but the encoder returns {features.shape[-1]}"
            )
        flat = features.flatten(0, -2) @ self.projections.flatten(1)
        return flat.unflatten(-1, self.projections.shape[1:]).movedim(1, 0)


class ValueTable(nn.Module):
    """What every key stands for: the only thing that is trained.

    Attributes:
        entries: row c J + j is the value of key j of codebook c, shape (C J, d_v); a layer that Opacus knows.
        pairs: J.
    """

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.entries = nn.Embedding.from_pretrained(values.flatten(0, 1), freeze=False)
        self.pairs = values.shape[1]

    @property
    def values(self) -> Tensor:
        """The values V, shape (C, J, d_v), without a graph."""
        return self.entries.weight.detach().unflatten(0, (-1, self.pairs))

    def forward(self, indices: Tensor) -> Tensor:
        """Return the values of keys (B, C, active, n), shape (B, C, active, n, d_v)."""
        first = self.pairs * torch.arange(indices.shape[1], device=indices.device)
        return self.entries(indices + first[:, None, None])

    def never_read(self) -> Tensor:
        """Return which values are still zero, boolean, shape (C, J): with a first value of zero, those never read."""
        return ~self.values.any(-1)


class LinearDecoder(nn.Module):
    """A fixed linear map from the joined values to the logits, averaged over positions."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, values: Tensor) -> Tensor:
        return values.mean(3).flatten(1) @ self.weight.mT


class VotingDecoder(nn.Module):
    """Values are logits: their sum over the keys that one codebook reads, their mean over codebooks and positions."""

    def forward(self, values: Tensor) -> Tensor:
        return values.sum(2).mean((1, 2))


class KeyValueModel(nn.Module):
    """logits = decoder(values(keys nearest to encoder(x))).

    Attributes:
        encoder: frozen, and in evaluation mode also while the values are trained.
        skips_unread: whether evaluation passes over keys whose values are zero.
    """

    def __init__(
        self, encoder: nn.Module, lookup: KeyLookup, table: ValueTable, decoder: nn.Module, *, skips_unread: bool
    ) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.lookup, self.table, self.decoder = lookup, table, decoder
        self.skips_unread = skips_unread

    def train(self, mode: bool = True) -> KeyValueModel:
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        return self.decoder(self.table(self.read(inputs)))

    @torch.no_grad()
    def read(self, inputs: Tensor) -> Tensor:
        """Return the keys that inputs (B, ...) read, by number, shape (B, C, active, n)."""
        barred = self.table.never_read() if self.skips_unread and not self.training else None
        return self.lookup(self.features(inputs), barred)

    def features(self, inputs: Tensor) -> Tensor:
        """Return what the encoder makes of inputs, shape (B, n, m): one position, or those of a map.

        Raises:
            NotApplicable: it returns neither.
        """
        found = self.encoder(inputs)
        if found.dim() == _ONE_VECTOR:
            return found[:, None]
        if found.dim() == _FEATURE_MAP:
            return found.flatten(2).mT
        if found.dim() != _SEVERAL_POSITIONS:
            raise NotApplicable(
                f"its encoder returns shape {tuple(found.shape)}, expected (examples, features), (examples, positions, "
                "features) or (examples, features, height, width)"
            )
        return found


def nearest(heads: Tensor, keys: Tensor, count: int, barred: Tensor | None = None) -> Tensor:
    """Return the `count` nearest of keys (C, J, d) for each of heads (C, N, d), nearest first, shape (C, N, count)."""
    together = max(1, _AT_ONCE // (heads.shape[1] * keys.shape[1]))
    lengths = keys.square().sum(-1)
    if barred is not None:
        lengths = lengths.masked_fill(barred, torch.inf)
    parts = zip(heads.split(together), keys.split(together), lengths.split(together), strict=True)
    return torch.cat([_nearest(*part, count) for part in parts])


def _nearest(heads: Tensor, keys: Tensor, lengths: Tensor, count: int) -> Tensor:
    """Compare ||k||^2 - 2 <h, k>, which is the squared distance but for what all keys of a head share."""
    compared = torch.baddbmm(lengths[:, None], heads, keys.mT, alpha=-2.0)
    return compared.argmin(-1, keepdim=True) if count == 1 else compared.topk(count, largest=False).indices


@dataclass
class MovingAverages:
    """Keys that follow the heads nearest to them: k = S / N, with moving averages S of sums and N of counts.

    Attributes:
        keys: shape (C, J, d).
        counts: N, shape (C, J).
        sums: S, shape (C, J, d).
        decay: weight g of what was before.
        epsilon: added to every count, so that none is zero.
        resets: whether a key that is moved onto a head takes its averages along, S = N k.
    """

    keys: Tensor
    counts: Tensor
    sums: Tensor
    decay: float
    epsilon: float
    resets: bool

    def follow(self, heads: Tensor, least: float, generator: torch.Generator) -> None:
        """Take one batch of heads (C, N, d), then move keys whose average count is below `least` onto some of them."""
        counts, sums = assigned(heads, self.keys)
        self.counts = self.decay * self.counts + (1.0 - self.decay) * counts
        self.sums = self.decay * self.sums + (1.0 - self.decay) * sums
        total, pairs = self.counts.sum(-1, keepdim=True), self.keys.shape[1]
        smoothed = (self.counts + self.epsilon) / (total + pairs * self.epsilon) * total
        self.keys = self.sums / smoothed[..., None]
        self._revive(heads, least, generator)

    def _revive(self, heads: Tensor, least: float, generator: torch.Generator) -> None:
        dead = self.counts < least
        chosen = torch.randint(heads.shape[1], dead.shape, generator=generator)
        placed = heads.gather(1, chosen[..., None].expand_as(self.keys))
        self.keys = torch.where(dead[..., None], placed, self.keys)
        if self.resets:
            self.counts = self.counts.masked_fill(dead, least)
            self.sums = torch.where(dead[..., None], least * placed, self.sums)


def assigned(heads: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many heads (C, N, d) are nearest to each key, shape (C, J), and their sum, shape (C, J, d)."""
    chosen = nearest(heads, keys, 1)
    counts = keys.new_zeros(keys.shape[:2]).scatter_add(1, chosen[..., 0], keys.new_ones(heads.shape[:2]))
    return counts, torch.zeros_like(keys).scatter_add(1, chosen.expand_as(heads), heads)


def centred(heads: Tensor, keys: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    """Return k-means centres (C, J, d) of heads (C, N, d), from random heads; keys beyond N heads stay as they are."""
    order = torch.rand(heads.shape[:2], generator=generator).argsort(-1)[:, : keys.shape[1]]
    first = heads.gather(1, order[..., None].expand(-1, -1, heads.shape[-1]))
    keys = torch.cat([first, keys[:, first.shape[1] :]], 1)
    for _ in range(steps):
        counts, sums = assigned(heads, keys)
        keys = torch.where(counts[..., None] > 0, sums / counts[..., None].clamp_min(1.0), keys)
    return keys
