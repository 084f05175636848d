"""Layers that truncate features to a prefix: of random length in training, of fixed length in evaluation."""

from __future__ import annotations

from functools import lru_cache
from typing import final

import torch
from torch import Tensor, nn

from fedsim.core.nets.masks import prefix_dropout, prefix_mask

_FAIR = (0.5, 0.5)


@final
class Prefix(nn.Module):
    """Truncates features (B, ..., D) to a random prefix in training and a fixed prefix in evaluation.

    Args:
        eta: width of the discretised Gaussian over prefix lengths, above 0.
        mu: mode of the Gaussian.
        kept: channels in evaluation; None keeps all.
        is_chosen: whether the server chooses the channels in evaluation, as a buffer.
        per_example: whether each example has its own length; otherwise the batch shares a single length.

    Attributes:
        mask: last training mask, stored until the following layer consumes it.
        chosen: channels in evaluation that the server chose, a scalar; 0 before its first choice, which keeps all; None
            without choices.
    """

    chosen: Tensor | None

    def __init__(
        self, eta: float, mu: float, kept: int | None, *, per_example: bool = False, is_chosen: bool = False
    ) -> None:
        super().__init__()
        self._eta, self._mu, self.kept, self._per_example = eta, mu, kept, per_example
        self._is_followed = False
        self._leader: tuple[Prefix, ...] = ()
        self.mask: Tensor | None = None
        self.register_buffer("chosen", torch.zeros(()) if is_chosen else None)

    def follow(self, leader: Prefix) -> None:
        """Use the mask of `leader` from the same forward pass in training."""
        self._leader = (leader,)  # a tuple, because a plain attribute would register a submodule
        leader._is_followed = True

    def forward(self, features: Tensor) -> Tensor:
        """Return features with zeros after the prefix, or unchanged in evaluation if all channels are kept."""
        if not self.training and self.chosen is not None:
            places = torch.arange(features.shape[-1], device=features.device)
            return features * ((places < self.chosen) | (self.chosen == 0)).to(features)
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
    """Either of two truncating layers; in each training step a fair coin selects the layer that truncates.

    The layer that runs first tosses the coin as a prefix mask of two entries, so the coin is recorded like a dropout
    mask.

    Args:
        prefix: truncating layer; in evaluation it always truncates.
        first: layer that runs first, if this is the second.
    """

    def __init__(self, prefix: Prefix, first: Alternating | None = None) -> None:
        super().__init__()
        self.prefix = prefix
        self._first = () if first is None else (first,)  # a tuple, because a plain attribute would register a submodule
        self._coin: Tensor | None = None

    def forward(self, features: Tensor) -> Tensor:
        """Return features, truncated if the coin selects this layer; in evaluation always."""
        if not self.training:
            return self.prefix(features)
        cut = self.prefix(features)
        return features + self._turn(features) * (cut - features)

    def _turn(self, features: Tensor) -> Tensor:
        """Return 1 for examples that this layer truncates, else 0, broadcastable to `features`."""
        shape = (-1, *(1 for _ in features.shape[1:]))
        if not self._first:
            self._coin = prefix_dropout(features.new_ones(len(features), 2), _FAIR)[:, 1]
            return self._coin.view(shape)
        (first,) = self._first
        coin, first._coin = first._coin, None
        assert coin is not None, "the layer that tosses the coin runs before"
        return 1.0 - coin.view(shape)


def prefixes(model: nn.Module) -> list[Prefix]:
    """Return a model's truncating layers in registration order."""
    return [module for module in model.modules() if isinstance(module, Prefix)]


@lru_cache(maxsize=64)
def prefix_odds(channels: int, eta: float, mu: float = 0.0) -> tuple[float, ...]:
    """Return the probabilities p(k) of prefix lengths k = 1, ..., D.

    Args:
        channels: D.
        eta: width of the Gaussian, above 0; infinity makes all k equally likely.
        mu: mode of the Gaussian.
    """
    lengths = torch.arange(1, channels + 1, dtype=torch.float64)
    return tuple(torch.softmax(-(((lengths - mu) / eta) ** 2), 0).tolist())
