"""Prefix masks, which keep the first channels of an example: sampling, application, and recording."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from functools import lru_cache

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from fedsim.core.types import DropoutSite


class KeptPrefixes:
    """Sample and record the same masks as `keep_masks`, for a model whose only dropout is a prefix per batch.

    Only these calls are intercepted, so the forward pass is as fast as without dropout. Lengths are sampled before the
    pass, because sampling between two gradients, with cold caches, takes several times as long. Further forward passes
    sample further lengths.
    """

    def __init__(self, sites: Sequence[DropoutSite], generator: torch.Generator) -> None:
        lengths = (_draw_length(site.odds, generator) for site in itertools.cycle(sites))
        first = list(itertools.islice(lengths, len(sites)))
        self._kept: tuple[Iterator[int], list[Tensor]] = (itertools.chain(first, lengths), [])

    def __enter__(self) -> list[Tensor]:
        self._token = _PREFIXES.set(self._kept)
        return self._kept[1]

    def __exit__(self, *_failure: object) -> None:
        _PREFIXES.reset(self._token)


_PREFIXES: ContextVar[tuple[Iterator[int], list[Tensor]] | None] = ContextVar("prefixes", default=None)


def prefix_dropout(
    activation: Tensor, odds: tuple[float, ...], training: bool = True, per_example: bool = False
) -> Tensor:
    """Keep a random prefix of the last dimension and zero the rest, without rescaling.

    Args:
        activation: shape (B, ..., D).
        odds: probabilities of the lengths 1 to D.
        training: if false, nothing is dropped.
        per_example: whether each example has its own length; otherwise the batch shares a single length.
    """
    if has_torch_function_unary(activation):
        return handle_torch_function(prefix_dropout, (activation,), activation, odds, training, per_example)
    if not training:
        return activation
    shape, kept = tuple(activation.shape), _PREFIXES.get()
    if kept is None:
        return activation * draw_prefix(odds, shape, None, activation, per_example=per_example)
    lengths, masks = kept
    masks.append(prefix_mask(next(lengths), shape, activation))
    return activation * masks[-1]


def prefix_mask(length: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return the mask that keeps the first `length` entries of the last dimension."""
    strides = (*(0 for _ in shape[1:]), 1)
    return _ones_then_zeros(shape[-1], like.dtype, like.device).as_strided(shape, strides, shape[-1] - length)


def draw_prefix(
    odds: tuple[float, ...],
    shape: tuple[int, ...],
    generator: torch.Generator | None,
    like: Tensor,
    *,
    per_example: bool,
) -> Tensor:
    """Return a mask that keeps a random prefix, shared by the batch or separate for each example."""
    if not per_example:
        return prefix_mask(_draw_length(odds, generator), shape, like)
    lengths = prefix_weights(odds).multinomial(shape[0], replacement=True, generator=generator)
    kept = torch.arange(shape[-1], device=lengths.device) <= lengths.view(-1, *(1 for _ in shape[1:]))
    return kept.to(like).expand(shape)


def _draw_length(odds: tuple[float, ...], generator: torch.Generator | None) -> int:
    """Sample a length as `multinomial` does, without its checks of the weights, which double the time."""
    weights = prefix_weights(odds)
    return 1 + int((weights / torch.empty_like(weights).exponential_(generator=generator)).argmax())


@lru_cache(maxsize=64)
def _ones_then_zeros(channels: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return D ones followed by D zeros; each prefix mask is a view into this tensor."""
    return torch.cat((torch.ones(channels), torch.zeros(channels))).to(device, dtype)


@lru_cache(maxsize=64)
def prefix_weights(odds: tuple[float, ...]) -> Tensor:
    """Return the probabilities of the lengths 1 to D as a CPU tensor, for sampling."""
    return torch.tensor(odds, dtype=torch.float64, device="cpu")
