"""Layers that cut features to a prefix: of random length in training, of a fixed one in evaluation."""

from __future__ import annotations

from functools import lru_cache
from typing import final

import torch
from torch import Tensor, nn

from fedsim.core.masks import prefix_dropout, prefix_mask

_FAIR = (0.5, 0.5)


@final
class Prefix(nn.Module):
    """Cuts features (B, ..., D) to a random prefix in training, and to a fixed one in evaluation.

    Args:
        eta: width of the bell, above 0.
        mu: its top.
        kept: channels in evaluation; all when None.
        per_example: every example has a length of its own; else one serves the batch.

    Attributes:
        mask: what it multiplied with last in training, where another layer follows it; for that one to take.
    """

    def __init__(self, eta: float, mu: float, kept: int | None, *, per_example: bool = False) -> None:
        super().__init__()
        self._eta, self._mu, self.kept, self._per_example = eta, mu, kept, per_example
        self._is_followed = False
        self._leader: tuple[Prefix, ...] = ()
        self.mask: Tensor | None = None

    def follow(self, leader: Prefix) -> None:
        """Cut where `leader` did in the same forward pass, in training."""
        self._leader = (leader,)  # in a tuple, since a module that is an attribute would be a part of this one
        leader._is_followed = True

    def forward(self, features: Tensor) -> Tensor:
        if not self.training:
            if self.kept is None:
                return features
            return features * prefix_mask(self.kept, tuple(features.shape), features)
        if self._leader:
            (leader,) = self._leader
            mask, leader.mask = leader.mask, None
            assert mask is not None, "the layer that it follows ran before"
            return features * mask
        odds = prefix_odds(features.shape[-1], self._eta, self._mu)
        if not self._is_followed:
            return prefix_dropout(features, odds, True, self._per_example)
        self.mask = prefix_dropout(torch.ones_like(features), odds, True, self._per_example)
        return features * self.mask


@final
class Alternating(nn.Module):
    """One of two layers that cut features, of which a fair coin lets only one cut in each training step.

    The coin is tossed by the layer that runs first, as a prefix of two entries, so that it is recorded like a mask.

    Args:
        prefix: what cuts; in evaluation always.
        first: the layer that runs first, for the one that runs after it.
    """

    def __init__(self, prefix: Prefix, first: Alternating | None = None) -> None:
        super().__init__()
        self.prefix = prefix
        self._first = () if first is None else (first,)  # in a tuple, as above
        self._coin: Tensor | None = None

    def forward(self, features: Tensor) -> Tensor:
        if not self.training:
            return self.prefix(features)
        cut = self.prefix(features)
        return features + self._turn(features) * (cut - features)

    def _turn(self, features: Tensor) -> Tensor:
        """Return 1 where it cuts and 0 where it does not, for every example."""
        shape = (-1, *(1 for _ in features.shape[1:]))
        if not self._first:
            self._coin = prefix_dropout(features.new_ones(len(features), 2), _FAIR)[:, 1]
            return self._coin.view(shape)
        (first,) = self._first
        coin, first._coin = first._coin, None
        assert coin is not None, "the layer that tosses the coin runs before"
        return 1.0 - coin.view(shape)


def prefixes(model: nn.Module) -> list[Prefix]:
    """Return the layers of a model that cut features, in the order of registration."""
    return [module for module in model.modules() if isinstance(module, Prefix)]


@lru_cache(maxsize=64)
def prefix_odds(channels: int, eta: float, mu: float = 0.0) -> tuple[float, ...]:
    """Return p(k) for k = 1, ..., D, which sum to 1.

    Args:
        channels: D.
        eta: width of the bell, above 0; infinity for the same odds of every k.
        mu: its top.
    """
    lengths = torch.arange(1, channels + 1, dtype=torch.float64)
    return tuple(torch.softmax(-(((lengths - mu) / eta) ** 2), 0).tolist())
