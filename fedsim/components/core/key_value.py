"""Parts of a key-value bottleneck: frozen encoder, frozen keys, and trained values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedsim.core.errors import NotApplicable

_ONE_VECTOR, _SEVERAL_POSITIONS, _FEATURE_MAP = 2, 3, 4  # dimensions of an encoder's output
_AT_ONCE = 1 << 18  # entries of a distance table that fits into the CPU cache


class KeyLookup(nn.Module):
    """Nearest-key lookup for C linear projections of each position; no part is trained.

    Attributes:
        projections: P, shape (m, C, d_k).
        keys: shape (C, J, d_k).
        active: number of nearest keys read per codebook.
    """

    def __init__(self, projections: Tensor, keys: Tensor, active: int) -> None:
        super().__init__()
        self.projections = nn.Parameter(projections, requires_grad=False)
        self.keys = nn.Parameter(keys, requires_grad=False)
        self.active = active

    def forward(self, features: Tensor, barred: Tensor | None = None) -> Tensor:
        """Return indices of the nearest keys of features (B, n, m), nearest first, shape (B, C, active, n).

        Args:
            features: n positions per example.
            barred: keys to skip, boolean, shape (C, J); default none.
        """
        entries = nearest(self.heads(features), self.keys, self.active, barred)
        return entries.unflatten(1, features.shape[:2]).permute(1, 0, 3, 2)

    def heads(self, features: Tensor) -> Tensor:
        """Return the projections of features (B, n, m), shape (C, B n, d_k).

        Raises:
            NotApplicable: the features' width differs from that of the projections.
        """
        if features.shape[-1] != len(self.projections):
            raise NotApplicable(
                f"its keys read {len(self.projections)} features, but the encoder returns {features.shape[-1]}"
            )
        flat = features.flatten(0, -2) @ self.projections.flatten(1)
        return flat.unflatten(-1, self.projections.shape[1:]).movedim(1, 0)


class ValueTable(nn.Module):
    """Values of all keys, the only trained part.

    Attributes:
        entries: embedding layer (supported by Opacus); row c J + j is the value of key j of codebook c, shape (C J,
            d_v).
        pairs: J, pairs per codebook.
    """

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.entries = nn.Embedding.from_pretrained(values.flatten(0, 1), freeze=False)
        self.pairs = values.shape[1]

    @property
    def values(self) -> Tensor:
        """Values V, shape (C, J, d_v), detached from the graph."""
        return self.entries.weight.detach().unflatten(0, (-1, self.pairs))

    def forward(self, indices: Tensor) -> Tensor:
        """Return the values of keys (B, C, active, n), shape (B, C, active, n, d_v)."""
        first = self.pairs * torch.arange(indices.shape[1], device=indices.device)
        return self.entries(indices + first[:, None, None])

    def never_read(self) -> Tensor:
        """Return which values are zero, boolean, shape (C, J): the unread ones, if values start at zero."""
        return ~self.values.any(-1)


class LinearDecoder(nn.Module):
    """A frozen linear map from the concatenated values to logits, averaged over positions."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, values: Tensor) -> Tensor:
        """Return scores (B, K) of the looked-up values (B, C, active, n, d_v)."""
        return values.mean(3).flatten(1) @ self.weight.mT


class VotingDecoder(nn.Module):
    """Sum of the values (logits) over the keys of a codebook, averaged over codebooks and positions."""

    def forward(self, values: Tensor) -> Tensor:
        """Return scores (B, K) of the looked-up values (B, C, active, n, K)."""
        return values.sum(2).mean((1, 2))


class KeyValueModel(nn.Module):
    """logits = decoder(values(keys nearest to encoder(x))).

    Attributes:
        encoder: frozen; stays in evaluation mode during training.
        skips_unread: whether evaluation skips keys whose values are zero.
    """

    def __init__(
        self, encoder: nn.Module, lookup: KeyLookup, table: ValueTable, decoder: nn.Module, *, skips_unread: bool
    ) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.lookup, self.table, self.decoder = lookup, table, decoder
        self.skips_unread = skips_unread

    def train(self, mode: bool = True) -> KeyValueModel:
        """Set the mode of the trained parts; the encoder stays in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        """Return scores (B, K) of inputs (B, *shape)."""
        return self.decoder(self.table(self.read(inputs)))

    @torch.no_grad()
    def read(self, inputs: Tensor) -> Tensor:
        """Return indices of the keys that inputs (B, ...) read, shape (B, C, active, n)."""
        barred = self.table.never_read() if self.skips_unread and not self.training else None
        return self.lookup(self.features(inputs), barred)

    def features(self, inputs: Tensor) -> Tensor:
        """Return the encoder's output for inputs, shape (B, n, m): one position, or all positions of a map.

        Raises:
            NotApplicable: the encoder's output has another number of dimensions.
        """
        features = self.encoder(inputs)
        if features.dim() == _ONE_VECTOR:
            return features[:, None]
        if features.dim() == _FEATURE_MAP:
            return features.flatten(2).mT
        if features.dim() != _SEVERAL_POSITIONS:
            raise NotApplicable(
                f"its encoder returns shape {tuple(features.shape)}, expected (examples, features), (examples, "
                "positions, features) or (examples, features, height, width)"
            )
        return features


def nearest(heads: Tensor, keys: Tensor, count: int, barred: Tensor | None = None) -> Tensor:
    """Return the `count` nearest keys (C, J, d) of each head (C, N, d), nearest first, shape (C, N, count)."""
    heads_at_once = max(1, _AT_ONCE // (heads.shape[1] * keys.shape[1]))
    lengths = keys.square().sum(-1)
    if barred is not None:
        lengths = lengths.masked_fill(barred, torch.inf)
    parts = zip(heads.split(heads_at_once), keys.split(heads_at_once), lengths.split(heads_at_once), strict=True)
    return torch.cat([_nearest(*part, count) for part in parts])


def _nearest(heads: Tensor, keys: Tensor, lengths: Tensor, count: int) -> Tensor:
    """Rank keys by ||k||^2 - 2 <h, k>: the squared distance without ||h||^2, which is equal for all keys."""
    compared = torch.baddbmm(lengths[:, None], heads, keys.mT, alpha=-2.0)
    return compared.argmin(-1, keepdim=True) if count == 1 else compared.topk(count, largest=False).indices


@dataclass
class MovingAverages:
    """Keys as moving averages of their nearest heads: k = S / N, with averages S of sums and N of counts.

    Attributes:
        keys: shape (C, J, d).
        counts: N, shape (C, J).
        sums: S, shape (C, J, d).
        decay: weight g of the previous average.
        epsilon: added to every count, so that no count is zero.
        resets: whether a key moved onto a head also resets its averages to S = N k.
    """

    keys: Tensor
    counts: Tensor
    sums: Tensor
    decay: float
    epsilon: float
    resets: bool

    def follow(self, heads: Tensor, least: float, generator: torch.Generator) -> None:
        """Update with a batch of heads (C, N, d); then move keys with an average count below `least` onto heads."""
        counts, sums = assign(heads, self.keys)
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


def assign(heads: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Return the number of heads (C, N, d) nearest to each key, shape (C, J), and their sum, shape (C, J, d)."""
    chosen = nearest(heads, keys, 1)
    counts = keys.new_zeros(keys.shape[:2]).scatter_add(1, chosen[..., 0], keys.new_ones(heads.shape[:2]))
    return counts, torch.zeros_like(keys).scatter_add(1, chosen.expand_as(heads), heads)


def centre(heads: Tensor, keys: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    """Return k-means centres (C, J, d) of heads (C, N, d), started at random heads; keys beyond N do not change."""
    order = torch.rand(heads.shape[:2], generator=generator).argsort(-1)[:, : keys.shape[1]]
    first = heads.gather(1, order[..., None].expand(-1, -1, heads.shape[-1]))
    keys = torch.cat([first, keys[:, first.shape[1] :]], 1)
    for _ in range(steps):
        counts, sums = assign(heads, keys)
        keys = torch.where(counts[..., None] > 0, sums / counts[..., None].clamp_min(1.0), keys)
    return keys
