"""Steering vectors: the direction in which fine-tuning moved the output distribution, and the strength of the step.

With scores z of the tuned model and z' of its base, p = softmax(z) and J = diag(p) - p p^T:

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

_FAR = 60.0  # limit of score differences, which are infinite for a token that either model never generates
_TINY = 1e-12  # squared norm below which a vector is ignored
_FURTHEST = 1e4


def steering_vector(tuned: Tensor, base: Tensor) -> Tensor:
    """Return delta of scores (..., V), same shape; its entries sum to 0."""
    odds = tuned.softmax(-1)
    moved = torch.nan_to_num(tuned - base, 0.0, _FAR, -_FAR).where(odds > 0, 0.0)
    return odds * (moved - (odds * moved).sum(-1, keepdim=True))


def sure_tokens(tuned: Tensor, confidence: float) -> Tensor:
    """Return a mask of tokens whose probability is at least `confidence` times the largest, shape (..., V)."""
    odds = tuned.softmax(-1)
    return odds >= confidence * odds.amax(-1, keepdim=True)


def steer_scores(tuned: Tensor, base: Tensor, strength: float, confidence: float, *, refuses: bool) -> Tensor:
    """Add strength times delta to the scores of confident tokens; `refuses`: all other tokens get -inf."""
    is_sure = sure_tokens(tuned, confidence)
    moved = tuned + strength * steering_vector(tuned, base).where(is_sure, 0.0)
    return moved.where(is_sure, -torch.inf) if refuses else moved


@dataclass(frozen=True)
class SteeredPlaces:
    """Calibration data of each position whose true token is confident, in double precision.

    Attributes:
        scores: scores of the K most confident tokens per position, shape (N, K); padded with -inf.
        deltas: steering vectors at these tokens, shape (N, K); padded with 0.
        log_remainder: log-sum-exp of all other scores, shape (N,); -inf if other tokens are refused.
        truth: index of the true token among the K, shape (N,).
        odds: probabilities of the K tokens in the full distribution, shape (N, K).
    """

    scores: Tensor
    deltas: Tensor
    log_remainder: Tensor
    truth: Tensor
    odds: Tensor

    def costs(self, strength: float) -> Tensor:
        """Return the cross-entropy of the steered distribution at each true token, shape (N,)."""
        moved = self.scores + strength * self.deltas
        return self._total(moved) - moved.gather(1, self.truth[:, None])[:, 0]

    def slope(self, strength: float) -> float:
        """Return the derivative of the summed cross-entropy by the strength, in which it increases."""
        moved = self.scores + strength * self.deltas
        odds = (moved - self._total(moved)[:, None]).exp()
        return float(((odds * self.deltas).sum(1) - self._gather_truth(self.deltas)).sum())

    def descents(self) -> Tensor:
        """Return minus the derivative of each cross-entropy at strength 0, for the full distribution, shape (N,)."""
        return self._gather_truth(self.deltas) - (self.odds * self.deltas).sum(1)

    def curvatures(self) -> Tensor:
        """Return delta^T J delta per position, shape (N,)."""
        return (self.odds * self.deltas.square()).sum(1) - (self.odds * self.deltas).sum(1).square()

    def _gather_truth(self, values: Tensor) -> Tensor:
        return values.gather(1, self.truth[:, None])[:, 0]

    def _total(self, moved: Tensor) -> Tensor:
        return torch.logaddexp(moved.logsumexp(1), self.log_remainder)


def places(tuned: Tensor, base: Tensor, true: Tensor, confidence: float, *, refuses: bool) -> SteeredPlaces:
    """Return calibration data of scores (N, V) and true tokens (N,), without positions of unconfident true tokens."""
    tuned, base = tuned.double(), base.double()
    is_sure = sure_tokens(tuned, confidence)
    kept = is_sure.gather(1, true[:, None])[:, 0]
    tuned, base, true, is_sure = tuned[kept], base[kept], true[kept], is_sure[kept]
    width = int(is_sure.sum(1).max()) if len(true) else 1
    scores, tokens = tuned.where(is_sure, -torch.inf).topk(width)
    is_real = scores > -torch.inf
    deltas = steering_vector(tuned, base).gather(1, tokens).where(is_real, 0.0)
    rival_score = tuned.where(~is_sure, -torch.inf).logsumexp(1)
    return SteeredPlaces(
        scores,
        deltas,
        torch.full_like(rival_score, -torch.inf) if refuses else rival_score,
        (tokens == true[:, None]).int().argmax(1),
        tuned.softmax(1).gather(1, tokens).where(is_real, 0.0),
    )


def concat_positions(parts: Sequence[SteeredPlaces]) -> SteeredPlaces:
    """Concatenate the positions of several batches, padded to a common width."""
    width = max(part.scores.shape[1] for part in parts)

    def wide(values: Sequence[Tensor], filling: float) -> Tensor:
        return torch.cat(
            [torch.nn.functional.pad(column, (0, width - column.shape[1]), value=filling) for column in values]
        )

    return SteeredPlaces(
        wide([part.scores for part in parts], -torch.inf),
        wide([part.deltas for part in parts], 0.0),
        torch.cat([part.log_remainder for part in parts]),
        torch.cat([part.truth for part in parts]),
        wide([part.odds for part in parts], 0.0),
    )


def strength_of(steered_places: SteeredPlaces, mode: Mode) -> float:
    """Return the strength mu of the positions; 0 if the models do not differ.

    mean: mean of descent over squared norm per position, as in the paper. ratio: sum of descents over sum of squared
    norms, which are at least twice the curvature, so the summed cost does not increase. newton: sum of descents
    over sum of curvatures. search: minimiser of the cost, which is convex in the strength.
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
    """Return the root of an increasing function by bisection, or the bracket's end if it has no root there."""
    low, high = -1.0, 1.0
    while slope(low) > 0 and low > -_FURTHEST:
        low *= 2
    while slope(high) < 0 and high < _FURTHEST:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return (low + high) / 2
