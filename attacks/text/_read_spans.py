"""Compute the spans of a language model's attentions from its update: hard spans, or soft spans under noise."""

from __future__ import annotations

from attacks.core.attention import attentions
from attacks.core.noise_level import measured_levels, rounding_levels, stated_levels
from attacks.core.results import NothingFound
from attacks.local_steps._multistep import batch_sizes
from attacks.text._prefixes import Front
from attacks.text._span_search import SpanReading
from attacks.text._span_tests import Outliers, ShareThreshold
from attacks.text._subspaces import Subspace, fresh_adapters, gradients_of, hard, hard_behind, rank, soft
from fedsim.core.types import Observation, Tensors

_TWO = 2
_MOST_LAYERS = 10
_AMPLIFIED = 200.0  # distance of an input in the span over the noise, in units of the largest singular value
_PER_SENTENCE, _SHARE = 50, 0.05
_FEWEST_FREE = 8


def read_spans(observation: Observation, tolerance: float, deviations: float, prefixes: int) -> SpanReading:
    """Return hard spans of two layers with a threshold; under larger noise, soft spans and an outlier test.

    Args:
        observation: of a model with shared gradients of at least two attentions.
        tolerance: share of an input's norm that may be outside a hard span.
        deviations: distance of inputs in soft spans below the median, in standard deviations.
        prefixes: limit of prefixes of one length in hard spans.

    Raises:
        NothingFound: noise exceeds the threshold and the adapters are fresh.
    """
    count = examples_of(observation) or 1
    shared = {layer: gradients_of(observation, layer) for layer in attentions(observation.model)[:_MOST_LAYERS]}
    layers = [layer for layer, gradients in shared.items() if gradients]
    levels = {layer: levels_of(observation, shared[layer]) for layer in layers[:_TWO]}
    next_spans = [behind_fresh(observation, layer) for layer in layers[:_TWO]]
    spaces = [
        hard(layer, shared[layer], levels[layer]) if space is None else space
        for layer, space in zip(layers[:_TWO], next_spans, strict=True)
    ]
    if max(space.noise for space in spaces) * _AMPLIFIED < tolerance:
        return SpanReading(Front(observation.model, layers[:_TWO]), spaces, ShareThreshold(tolerance, prefixes))
    if any(space is not None for space in next_spans):
        raise NothingFound("noise hides the span that fresh adapters show")
    levels |= {layer: levels_of(observation, shared[layer]) for layer in layers[_TWO:]}
    spaces = [soft(layer, shared[layer], levels[layer]) for layer in layers]
    beam = _PER_SENTENCE * count
    tokens = max(beam, int(_SHARE * (observation.spec.vocabulary or 0)))
    return SpanReading(Front(observation.model, layers), spaces, Outliers(deviations, tokens, beam))


def behind_fresh(observation: Observation, layer: str) -> Subspace | None:
    """Return the span of an attention's inputs shown by fresh adapters; None without them, or if all are full."""
    adapters = fresh_adapters(observation, layer).items()
    return hard_behind(layer, [(*pair, rounding_levels(observation, {name: pair[0]})) for name, pair in adapters])


def levels_of(observation: Observation, gradients: Tensors) -> list[float]:
    """Return the noise levels of a layer's gradients: stated, from rounding, or measured.

    They are measured if the tokens leave directions of the layer free and the gradients have full rank nevertheless.
    """
    stated, rounding = stated_levels(observation, gradients), rounding_levels(observation, gradients)
    if stated is not None and observation.update.kind == "gradient":
        return [max(pair) for pair in zip(stated, rounding, strict=True)]
    width, tokens = next(iter(gradients.values())).shape[1], sum(batch_sizes(observation)) * observation.spec.shape[0]
    if tokens <= width - _FEWEST_FREE and rank(gradients, rounding) == width:
        return measured_levels(observation, gradients, tokens)
    return rounding


def examples_of(observation: Observation) -> int | None:
    """Return the number of sentences, or None if it is unknown."""
    return observation.batch_size if observation.local_steps == 1 else observation.examples
