"""Locate the masked positions of texts: positions where the mask token's input lies in the spans of the gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from attacks.core.attention import attentions, fewer_than
from attacks.core.results import NothingFound
from attacks.text._arrangements import arrange_tokens
from attacks.text._prefixes import drops_in_front
from attacks.text._read_spans import levels_of, read_spans
from attacks.text._span_search import SpanReading
from attacks.text._subspaces import gradients_of, rank
from fedsim.core.nets.masked_positions import mask_token
from fedsim.core.types import Observation

_TWO = 2
_TOLERANCE, _DEVIATIONS, _PREFIXES, _TRIES = 5e-4, 5.0, 2000, 20


def has_no_spans(observation: Observation) -> str | None:
    """Return why the spans of the first two attentions cannot be computed, or None."""
    if reason := fewer_than(_TWO, observation.model):
        return reason
    layers = attentions(observation.model)[:_TWO]
    if any(drops_in_front(observation.model, site, layers[1]) for site in observation.sites):
        return "dropout changes the layers' inputs, and the span test needs them unchanged"
    for layer in layers:
        gradients = gradients_of(observation, layer)
        if not gradients or not any(bool(gradient.any()) for gradient in gradients.values()):
            return "the gradients of the first two attentions are hidden or zero"
        if rank(gradients, levels_of(observation, gradients)) == next(iter(gradients.values())).shape[1]:
            return f"the gradients of '{layer}' have full rank: too many tokens, or noise"
    return None


def spans_with_masks(
    observation: Observation, tolerance: float = _TOLERANCE, deviations: float = _DEVIATIONS
) -> tuple[SpanReading, Sequence[Tensor]]:
    """Return the spans, and the tokens in the first span at each position, the mask token among them.

    Raises:
        NothingFound: a position has no token in the span.
    """
    mask = mask_token(observation.model)
    assert mask is not None, "callers refuse models without a mask token"
    reading = read_spans(observation, tolerance, deviations, _PREFIXES)
    tokens = reading.tokens(replace(observation.spec, vocabulary=max(observation.spec.vocabulary or 0, mask + 1)))
    if missing := [place for place, candidates in enumerate(tokens) if not len(candidates)]:
        raise NothingFound(f"no token, and no mask, lies in the span at place {missing[0]}")
    return reading, tokens


@torch.no_grad()
def masked_places(observation: Observation, generator: torch.Generator) -> Tensor:
    """Return the masked positions of texts, bool (N, T). Texts of a larger batch are those found by the second span.

    N is 0 if no text of a larger batch was found.

    Raises:
        NothingFound: the spans cannot be computed.
    """
    if reason := has_no_spans(observation):
        raise NothingFound(reason)
    mask = mask_token(observation.model)
    reading, tokens = spans_with_masks(observation)
    if observation.batch_size in (None, 1):
        return torch.tensor([[mask in candidates.tolist() for candidates in tokens]])
    try:
        return arrange_tokens(reading, tokens, observation.batch_size, _TRIES, generator) == mask
    except NothingFound:
        return torch.zeros(0, len(tokens)).bool()
