"""Who lies in a span: what is outside by less than a tolerance or, in noise, far less than most others.

Inputs have distances D (N, L) from what L layers read (`_subspaces`). In noise those that were there are outliers of
the mean over layers of log D - log (1 - D), and at each length a beam of prefixes is kept.
Paper: Petrov et al. 2024, arXiv 2405.15586, section 5 and appendix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from attacks.core.results import NothingFound

_FLOOR = 1e-12
_DEVIATION = 1.4826  # standard deviation of a normal law over its median absolute deviation


class SpanTest(Protocol):
    """How it is decided what lies in the spans.

    Attributes:
        figure: what a sentence's score is.
        overlap: share of equal places from which on two sentences are taken for one.
    """

    figure: ClassVar[str]
    overlap: ClassVar[float]

    def scores(self, distances: Tensor) -> Tensor:
        """Return a score, the smaller the further inside, of distances (N, L), shape (N,)."""
        ...

    def tokens(self, scores: Tensor) -> Tensor:
        """Say which of the vocabulary, with these scores (V,), were there; shape (V,)."""
        ...

    def prefixes(self, before: Tensor, scores: Tensor) -> Tensor:
        """Say which prefixes go on with their last token, shape (N,), from its scores (N,) and those before (N, t)."""
        ...

    def sequences(self, scores: Tensor) -> Tensor:
        """Return one score of each of N sequences, shape (N,), from those at their tokens (N, t)."""
        ...

    def kept(self, scores: Tensor) -> Tensor:
        """Say which prefixes of one length, with these scores as sequences (N,), are followed up, shape (N,).

        Raises:
            NothingFound: they are too many.
        """
        ...


@dataclass(frozen=True)
class Threshold:
    """Inside is what is outside by less than a share of its length, in the first of the layers."""

    tolerance: float
    most: int
    figure: ClassVar[str] = "most of an input outside the span"
    overlap: ClassVar[float] = 1.0

    def scores(self, distances: Tensor) -> Tensor:
        """Return the share of an input's length that is outside."""
        return distances[:, 0].clamp_min(0.0).sqrt()

    def tokens(self, scores: Tensor) -> Tensor:
        """Compare with the tolerance."""
        return scores < self.tolerance

    def prefixes(self, before: Tensor, scores: Tensor) -> Tensor:
        """Compare with the tolerance."""
        return scores < self.tolerance

    def sequences(self, scores: Tensor) -> Tensor:
        """Return the largest score."""
        return scores.amax(-1)

    def kept(self, scores: Tensor) -> Tensor:
        """Keep all, or raise."""
        if len(scores) > self.most:
            raise NothingFound(f"{len(scores)} prefixes of one length lie in the span: it tells too little")
        return torch.ones(len(scores), dtype=torch.bool)


@dataclass(frozen=True)
class Outliers:
    """Inside is what has a score far below the middle of all.

    Middle and deviation are the median, and the median distance from it, since those inside may be many. A prefix goes
    on with what is nearer to the mean over its tokens than to the middle: that says where a sentence ends.
    """

    deviations: float
    most_tokens: int
    most_prefixes: int
    figure: ClassVar[str] = "mean logit of the distance, of the worst sentence"
    overlap: ClassVar[float] = 0.7

    def scores(self, distances: Tensor) -> Tensor:
        """Return the mean logit over layers."""
        return distances.double().clamp(_FLOOR, 1.0 - _FLOOR).logit().mean(-1)

    def tokens(self, scores: Tensor) -> Tensor:
        """Take the outliers."""
        middle = scores.median()
        deviation = _DEVIATION * (scores - middle).abs().median()
        return (scores < middle - self.deviations * deviation) & _least(scores, self.most_tokens)

    def prefixes(self, before: Tensor, scores: Tensor) -> Tensor:
        """Take what goes on as it began."""
        if not before.shape[1]:
            return scores < (scores.min() + scores.median()) / 2
        return scores < (before.mean(1) + scores.median()) / 2

    def sequences(self, scores: Tensor) -> Tensor:
        """Return the mean over tokens."""
        return scores.mean(-1)

    def kept(self, scores: Tensor) -> Tensor:
        """Keep the best."""
        return _least(scores, self.most_prefixes)


def _least(scores: Tensor, count: int) -> Tensor:
    """Say which are the smallest ones."""
    chosen = torch.zeros(len(scores), dtype=torch.bool)
    chosen[scores.argsort()[:count]] = True
    return chosen
