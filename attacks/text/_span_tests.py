"""Tests of membership in a span: by a threshold on the residual, or by outlier detection under noise.

Inputs have distances D (N, L) from the spans of L layers (`_subspaces`). Under noise the inputs in the batch are
outliers of the mean over layers of log D - log (1 - D), and a beam of prefixes is kept at each length.
Paper: Petrov et al. 2024, arXiv 2405.15586, section 5 and appendix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from attacks.core.results import NothingFound

_FLOOR = 1e-12
_MOST_OUTSIDE = 2e-3  # share of an input that rounding of the weakest gradients leaves outside the span
_CHANCE = 1e-3  # probability of any false input in the span
_DEVIATION = 1.4826  # standard deviation of a normal distribution over its median absolute deviation


def widest(width: int, size: int, tried: int) -> float:
    """Return the largest residual share of an input's norm at which a false positive is unlikely.

    With k directions outside, a random input has a residual share below t with a probability below
    (e t^2 width / k)^(k / 2).

    Args:
        width: dimension of the space.
        size: dimension of the span, below the width.
        tried: number of tested inputs.
    """
    free = width - size
    by_chance = math.sqrt(free / (math.e * width)) * (_CHANCE / tried) ** (1.0 / max(1, free))
    return min(_MOST_OUTSIDE, by_chance)


class SpanTest(Protocol):
    """Decides which inputs lie in the spans.

    Attributes:
        figure: name of a sentence's score in the diagnostics.
        overlap: share of equal positions from which two sentences count as equal.
    """

    figure: ClassVar[str]
    overlap: ClassVar[float]

    def scores(self, distances: Tensor) -> Tensor:
        """Return scores of distances (N, L), shape (N,); smaller is further inside."""
        ...

    def tokens(self, scores: Tensor) -> Tensor:
        """Return which tokens of the vocabulary, with these scores (V,), are in the batch; shape (V,)."""
        ...

    def prefixes(self, before: Tensor, scores: Tensor) -> Tensor:
        """Return which prefixes (N,) continue with their last token, from its scores (N,) and earlier scores (N, t)."""
        ...

    def sequences(self, scores: Tensor) -> Tensor:
        """Return a score for each of N sequences, shape (N,), from the scores of their tokens (N, t)."""
        ...

    def select_prefixes(self, scores: Tensor) -> Tensor:
        """Return which prefixes of one length are kept, shape (N,), from their scores as sequences (N,).

        Raises:
            NothingFound: too many prefixes lie in the span.
        """
        ...


@dataclass(frozen=True)
class ShareThreshold:
    """An input lies inside if its residual outside the first layer's span is below a share of its norm."""

    tolerance: float
    max_inside: int
    figure: ClassVar[str] = "most of an input outside the span"
    overlap: ClassVar[float] = 1.0

    def scores(self, distances: Tensor) -> Tensor:
        """Return the share of an input's norm that is outside the span."""
        return distances[:, 0].clamp_min(0.0).sqrt()

    def tokens(self, scores: Tensor) -> Tensor:
        """Return which scores are below the tolerance."""
        return scores < self.tolerance

    def prefixes(self, before: Tensor, scores: Tensor) -> Tensor:
        """Return which scores are below the tolerance."""
        return scores < self.tolerance

    def sequences(self, scores: Tensor) -> Tensor:
        """Return the largest score."""
        return scores.amax(-1)

    def select_prefixes(self, scores: Tensor) -> Tensor:
        """Keep all prefixes; raise `NothingFound` if there are more than the limit."""
        if len(scores) > self.max_inside:
            raise NothingFound(f"{len(scores)} prefixes of equal length lie in the span, so it excludes too few")
        return torch.ones(len(scores), dtype=torch.bool)


@dataclass(frozen=True)
class Outliers:
    """An input lies inside if its score is far below the median of all.

    The deviation is the median absolute deviation, since many inputs may be inside. A prefix continues with tokens
    whose
    scores are nearer to the mean score of the prefix than to the median of all; this decides where a sentence ends.
    """

    deviations: float
    most_tokens: int
    most_prefixes: int
    figure: ClassVar[str] = "mean logit of the distance, of the worst sentence"
    overlap: ClassVar[float] = 0.7

    def scores(self, distances: Tensor) -> Tensor:
        """Return the mean logit of the distances over layers."""
        return distances.double().clamp(_FLOOR, 1.0 - _FLOOR).logit().mean(-1)

    def tokens(self, scores: Tensor) -> Tensor:
        """Return the outliers."""
        middle = scores.median()
        deviation = _DEVIATION * (scores - middle).abs().median()
        return (scores < middle - self.deviations * deviation) & _least(scores, self.most_tokens)

    def prefixes(self, before: Tensor, scores: Tensor) -> Tensor:
        """Return the prefixes with a last score near the mean of their earlier scores."""
        if not before.shape[1]:
            return scores < (scores.min() + scores.median()) / 2
        return scores < (before.mean(1) + scores.median()) / 2

    def sequences(self, scores: Tensor) -> Tensor:
        """Return the mean score over tokens."""
        return scores.mean(-1)

    def select_prefixes(self, scores: Tensor) -> Tensor:
        """Keep the best prefixes."""
        return _least(scores, self.most_prefixes)


def _least(scores: Tensor, count: int) -> Tensor:
    """Mark the `count` smallest scores."""
    chosen = torch.zeros(len(scores), dtype=torch.bool)
    chosen[scores.argsort()[:count]] = True
    return chosen
