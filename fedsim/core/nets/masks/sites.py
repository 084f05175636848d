"""Dropout sites of a model, and the distribution of their masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fedsim.core.nets.masks.prefixes import draw_prefix, prefix_weights
from fedsim.core.types import DropoutSite, Masks


def draw_masks(sites: Sequence[DropoutSite], generator: torch.Generator, like: Tensor) -> Masks:
    """Sample masks for `sites` as a client does, with the type and device of `like`."""
    return tuple(draw_mask(site, generator, like) for site in sites)


def rescaling_factor(site: DropoutSite) -> float:
    """Return the factor of kept entries: 1 / (1 - p), or 1 for a prefix mask."""
    return 1.0 if site.odds else 1.0 / (1.0 - site.rate)


def expected_mask(site: DropoutSite) -> Tensor:
    """Return the probability of each entry to be kept: 1 - p, or P(length >= j) at entry j of a prefix mask."""
    if not site.odds:
        return torch.full(site.shape, 1.0 - site.rate)
    at_least = prefix_weights(site.odds).flip(0).cumsum(0).flip(0)
    return at_least.float().clamp(0.0, 1.0).expand(site.shape).clone()


def draw_mask(site: DropoutSite, generator: torch.Generator, like: Tensor) -> Tensor:
    """Sample one mask for `site`, as a client does."""
    if not site.odds:
        mask = torch.empty(site.shape, dtype=like.dtype).bernoulli_(1.0 - site.rate, generator=generator)
        return mask.to(like.device)
    return draw_prefix(site.odds, site.shape, generator, like, per_example=site.per_example)


@contextmanager
def named_calls(model: nn.Module, names: list[str]) -> Iterator[None]:
    """Maintain the stack of modules being called in `names`, innermost last; it includes modules that failed."""

    def leave(name: str) -> None:
        while names.pop() != name:  # skip inner modules that failed
            pass

    handles = []
    for path, module in model.named_modules():
        name = path or "model"
        handles.append(module.register_forward_pre_hook(lambda _m, _i, name=name: names.append(name)))
        handles.append(module.register_forward_hook(lambda _m, _i, _o, name=name: leave(name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
