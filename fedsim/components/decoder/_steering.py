"""Code of steering vectors: the direction in which a training moved a distribution, and how far to go along it.

With scores z of a tuned model and z' of the one it was tuned from, p = softmax(z) and J = diag(p) - p p^T:

    delta = J (z - z') = p (D - E_p D), D = z - z'; the same as J ln(p / p'), without a logarithm of small odds

Paper: Hu, Han et al. 2025, arXiv 2509.15888. Its text subtracts delta and finds a negative strength.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Mode = Literal["mean", "ratio", "newton", "search"]

_FAR = 60.0  # beyond which a difference of scores is no number of use: a token that one model never writes
_TINY = 1e-12  # square of a vector's norm, below which its token says nothing
_FURTHEST = 1e4


def steering_vector(tuned: Tensor, base: Tensor) -> Tensor:
    """Return delta of scores (..., V), the same shape; it sums to 0."""
    odds = tuned.softmax(-1)
    moved = torch.nan_to_num(tuned - base, 0.0, _FAR, -_FAR).where(odds > 0, 0.0)
    return odds * (moved - (odds * moved).sum(-1, keepdim=True))


def sure_tokens(tuned: Tensor, confidence: float) -> Tensor:
    """Return where the odds are at least a share of the largest, shape (..., V)."""
    odds = tuned.softmax(-1)
    return odds >= confidence * odds.amax(-1, keepdim=True)


def steered(tuned: Tensor, base: Tensor, strength: float, confidence: float, *, refuses: bool) -> Tensor:
    """Return the scores moved by strength times delta where the tuned model is sure; `refuses`: -inf elsewhere."""
    is_sure = sure_tokens(tuned, confidence)
    moved = tuned + strength * steering_vector(tuned, base).where(is_sure, 0.0)
    return moved.where(is_sure, -torch.inf) if refuses else moved


@dataclass(frozen=True)
class SteeredPlaces:
    """What calibration needs of each place whose true token is sure: all in double precision.

    Attributes:
        scores: of the K surest tokens of each, shape (N, K); -inf where there are fewer.
        deltas: of the same tokens; 0 where there are fewer.
        others: ln of the summed exponentials of all other scores, shape (N,); -inf where they are refused.
        truth: place of the true token among the K, shape (N,).
        odds: of the K tokens in the whole distribution.
    """

    scores: Tensor
    deltas: Tensor
    others: Tensor
    truth: Tensor
    odds: Tensor

    def costs(self, strength: float) -> Tensor:
        """Return -ln of the steered probability of each true token, shape (N,)."""
        moved = self.scores + strength * self.deltas
        return self._total(moved) - moved.gather(1, self.truth[:, None])[:, 0]

    def slope(self, strength: float) -> float:
        """Return the derivative of the summed costs, which grows with the strength."""
        moved = self.scores + strength * self.deltas
        odds = (moved - self._total(moved)[:, None]).exp()
        return float(((odds * self.deltas).sum(1) - self._of_truth(self.deltas)).sum())

    def descents(self) -> Tensor:
        """Return how fast each cost falls at strength 0, by the whole distribution, shape (N,)."""
        return self._of_truth(self.deltas) - (self.odds * self.deltas).sum(1)

    def curvatures(self) -> Tensor:
        """Return delta^T J delta of each place, shape (N,)."""
        return (self.odds * self.deltas.square()).sum(1) - (self.odds * self.deltas).sum(1).square()

    def _of_truth(self, values: Tensor) -> Tensor:
        return values.gather(1, self.truth[:, None])[:, 0]

    def _total(self, moved: Tensor) -> Tensor:
        return torch.logaddexp(moved.logsumexp(1), self.others)


def places(tuned: Tensor, base: Tensor, true: Tensor, confidence: float, *, refuses: bool) -> SteeredPlaces:
    """Return what calibration needs of scores (N, V) and true tokens (N,); unsure true tokens are left out."""
    tuned, base = tuned.double(), base.double()
    is_sure = sure_tokens(tuned, confidence)
    kept = is_sure.gather(1, true[:, None])[:, 0]
    tuned, base, true, is_sure = tuned[kept], base[kept], true[kept], is_sure[kept]
    width = int(is_sure.sum(1).max()) if len(true) else 1
    scores, tokens = tuned.where(is_sure, -torch.inf).topk(width)
    is_real = scores > -torch.inf
    deltas = steering_vector(tuned, base).gather(1, tokens).where(is_real, 0.0)
    others = tuned.where(~is_sure, -torch.inf).logsumexp(1)
    return SteeredPlaces(
        scores,
        deltas,
        torch.full_like(others, -torch.inf) if refuses else others,
        (tokens == true[:, None]).int().argmax(1),
        tuned.softmax(1).gather(1, tokens).where(is_real, 0.0),
    )


def joined(parts: Sequence[SteeredPlaces]) -> SteeredPlaces:
    """Return the places of several batches together."""
    width = max(part.scores.shape[1] for part in parts)

    def wide(values: Sequence[Tensor], filling: float) -> Tensor:
        return torch.cat(
            [torch.nn.functional.pad(column, (0, width - column.shape[1]), value=filling) for column in values]
        )

    return SteeredPlaces(
        wide([part.scores for part in parts], -torch.inf),
        wide([part.deltas for part in parts], 0.0),
        torch.cat([part.others for part in parts]),
        torch.cat([part.truth for part in parts]),
        wide([part.odds for part in parts], 0.0),
    )


def strength_of(steered_places: SteeredPlaces, mode: Mode) -> float:
    """Return mu of the places; 0 where the models do not differ.

    mean: of each place's descent over its squared norm, as in the paper. ratio: sum of descents over sum of squared
    norms; these are at least twice the curvature, so that the summed cost does not grow. newton: over the sum of
    curvatures. search: the strength of least cost, which is convex in it.
    """
    norms = steered_places.deltas.square().sum(1)
    is_clear = norms > _TINY
    if not is_clear.any():
        return 0.0
    descents = steered_places.descents()
    if mode == "mean":
        return float((descents[is_clear] / norms[is_clear]).mean())
    if mode == "ratio":
        return float(descents.sum() / norms.sum())
    if mode == "newton":
        return float(descents.sum() / steered_places.curvatures().sum().clamp_min(_TINY))
    return _root(steered_places.slope)


def _root(slope: Callable[[float], float]) -> float:
    """Return where a growing function is 0, or the furthest strength where it is not."""
    low, high = -1.0, 1.0
    while slope(low) > 0 and low > -_FURTHEST:
        low *= 2
    while slope(high) < 0 and high < _FURTHEST:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return (low + high) / 2
