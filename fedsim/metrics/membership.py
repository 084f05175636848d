"""How well an attacker's scores tell members from others: the whole curve, and its end where false alarms are rare.

An attacker who is sure of a few members is a threat even if he is right about the others no more often than a coin,
so the AUC alone says little (Carlini et al. 2022, arXiv 2112.03570, section III).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from fedsim.core.registry import metric
from fedsim.record import Interval

LOW_FPR = (0.1, 0.01, 0.001)
_FULLY_DRAWN = 20
_SHUFFLES = 400
_POINTS_A_DECADE = 40
_RATE: dict[str, Any] = {"over": "finding", "form": "percent", "digits": 1, "limits": (0.0, 1.0)}


@dataclass(frozen=True)
class Separation:
    """How well scores tell members from others.

    Attributes:
        auc: the probability that a member scores above a non-member.
        advantage: TPR - FPR, which is twice the balanced accuracy minus one, at a threshold that is chosen on one half
            of the candidates and judged on the other.
        rates: TPR by FPR, the rarest last; without those that so few non-members cannot show.
        roc: (FPR, TPR), thinned.
    """

    auc: Interval
    advantage: float
    rates: dict[float, Interval]
    roc: tuple[tuple[float, float], ...]

    @property
    def figures(self) -> dict[str, Interval]:
        """All figures, by the name of their metric."""
        rates = {name_of(fpr): tpr for fpr, tpr in self.rates.items()}
        return {
            "auc": self.auc,
            **rates,
            "advantage": Interval(value=self.advantage, low=None, high=None, n=self.auc.n),
        }


def separation(
    scores: Tensor,
    is_member: Tensor,
    generator: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> Separation:
    """Summarise the scores of all candidates. The independent unit is the candidate.

    Args:
        scores: shape (N,), higher for those that are rather members; infinities are allowed.
        is_member: boolean, shape (N,), with at least one of each kind, in an order that says nothing.
        generator: source of the resamples.
        confidence: coverage of every interval, in (0, 1).
        resamples: number of bootstrap resamples.

    Raises:
        ValueError: there is no member, or nobody else.
    """
    values, members = scores.double().numpy(), is_member.numpy()
    inside, outside = values[members], values[~members]
    if not len(inside) or not len(outside):
        raise ValueError("a membership score needs at least one member and one non-member")
    rates = {fpr: tpr_at(inside, outside, fpr, confidence) for fpr in LOW_FPR}
    return Separation(
        auc=auc_interval(inside, outside, generator, confidence, resamples),
        advantage=advantage(values, members),
        rates={fpr: tpr for fpr, tpr in rates.items() if tpr is not None},
        roc=thin(*roc(inside, outside), len(outside)),
    )


def roc(inside: np.ndarray, outside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (FPR, TPR) at every threshold, from (0, 0) to (1, 1); a score of at least the threshold accuses.

    Args:
        inside: scores of members.
        outside: scores of non-members.
    """
    thresholds = np.unique(np.concatenate([inside, outside]))[::-1]
    accused = [len(scores) - np.searchsorted(np.sort(scores), thresholds, side="left") for scores in (outside, inside)]
    fpr, tpr = (np.concatenate([[0.0], n / len(counts)]) for n, counts in zip(accused, (outside, inside), strict=True))
    return fpr, tpr


@metric(
    "auc",
    title="AUC",
    summary="probability that a member scores above another example",
    over="finding",
    limits=(0.0, 1.0),
)
def auc_interval(
    inside: np.ndarray,
    outside: np.ndarray,
    generator: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> Interval:
    """Return the probability that a member scores above a non-member, ties counted as one half.

    The interval is a percentile bootstrap that resamples members and non-members apart; n is the number of both. A
    resample is a number of copies of each distinct score, so nothing is sorted again.
    """
    levels, index = np.unique(np.concatenate([inside, outside]), return_inverse=True)
    members, others = (
        np.bincount(part, minlength=len(levels)) for part in (index[: len(inside)], index[len(inside) :])
    )
    value = float(_auc(members, others))
    resampled = [
        generator.multinomial(counts.sum(), counts / counts.sum(), size=resamples) for counts in (members, others)
    ]
    low, high = np.quantile(_auc(*resampled), [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(value=value, low=float(low), high=float(high), n=len(inside) + len(outside))


def tpr_at(inside: np.ndarray, outside: np.ndarray, fpr: float, confidence: float = 0.95) -> Interval | None:
    """Return the largest TPR whose FPR is at most `fpr`, with its Clopper-Pearson interval; n is the members.

    The interval treats the threshold as given. None when there are fewer than 1 / fpr non-members.
    """
    if len(outside) * fpr < 1 - 1e-9:
        return None
    hits = round(_largest_rate(inside, outside, fpr) * len(inside))
    return clopper_pearson(hits, len(inside), confidence)


def rate_of_luck(scores: Tensor, is_member: Tensor, fpr: float, generator: np.random.Generator) -> float:
    """Return what `tpr_at` comes to on average where members and others are dealt out anew.

    It lies above `fpr`, most where others are few: the threshold is chosen on the examples that it is judged on.

    Args:
        scores: shape (N,).
        is_member: boolean, shape (N,).
        fpr: rate of false alarms, in (0, 1), at least one over the number of others.
        generator: source of the shuffles.
    """
    values, members = scores.double().numpy(), is_member.numpy()
    deals = (generator.permutation(members) for _ in range(_SHUFFLES))
    return float(np.mean([_largest_rate(values[dealt], values[~dealt], fpr) for dealt in deals]))


@metric(
    "tpr_at_fpr_0.1",
    title="TPR at FPR 10%",
    summary="share of the members that are found where at most 10% of the others are accused",
    **_RATE,
)
def tpr_at_one_in_ten(inside: np.ndarray, outside: np.ndarray, confidence: float = 0.95) -> Interval | None:
    """Return `tpr_at` a rate of 0.1."""
    return tpr_at(inside, outside, 0.1, confidence)


@metric(
    "tpr_at_fpr_0.01",
    title="TPR at FPR 1%",
    summary="share of the members that are found where at most 1% of the others are accused",
    **_RATE,
)
def tpr_at_one_in_a_hundred(inside: np.ndarray, outside: np.ndarray, confidence: float = 0.95) -> Interval | None:
    """Return `tpr_at` a rate of 0.01."""
    return tpr_at(inside, outside, 0.01, confidence)


@metric(
    "tpr_at_fpr_0.001",
    title="TPR at FPR 0.1%",
    summary="share of the members that are found where at most 0.1% of the others are accused",
    **_RATE,
)
def tpr_at_one_in_a_thousand(inside: np.ndarray, outside: np.ndarray, confidence: float = 0.95) -> Interval | None:
    """Return `tpr_at` a rate of 0.001."""
    return tpr_at(inside, outside, 0.001, confidence)


def name_of(fpr: float) -> str:
    """Return the name of the metric of members found at a rate of false alarms."""
    return f"tpr_at_fpr_{fpr:g}"


def clopper_pearson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Return a rate with its exact interval, which covers at least as often as it says.

    Raises:
        ValueError: n is 0 or the successes are out of range.
    """
    from scipy.stats import binomtest  # noqa: PLC0415 - a run without membership attacks need not wait for SciPy

    bounds = binomtest(successes, n).proportion_ci(confidence, method="exact")
    return Interval(value=successes / n, low=float(bounds.low), high=float(bounds.high), n=n)


@metric(
    "advantage",
    title="advantage",
    summary="TPR - FPR at a threshold that is chosen on one half of the candidates and judged on the other",
    over="finding",
    limits=(-1.0, 1.0),
)
def advantage(values: np.ndarray, members: np.ndarray) -> float:
    """Return TPR - FPR at a threshold that is chosen on one half of the candidates and judged on the other.

    Both halves choose in turn, and the mean is returned, so that it is 0 on average for scores that say nothing; the
    best threshold in hindsight would be above. A half without members or without others has nothing to choose.
    """
    parity = np.arange(len(values)) % 2 == 0
    gains = [_transfer(values, members, choosing) for choosing in (parity, ~parity)]
    return float(np.mean([gain for gain in gains if gain is not None] or [0.0]))


def thin(fpr: np.ndarray, tpr: np.ndarray, others: int) -> tuple[tuple[float, float], ...]:
    """Return the ROC's upper point at each number of false alarms, all up to 20, then about 40 a decade."""
    alarms = np.rint(fpr * others).astype(int)
    highest = {int(count): float(rate) for count, rate in zip(alarms, tpr, strict=True)}
    kept: list[tuple[float, float]] = []
    due = 0.0
    for count, rate in highest.items():
        if count <= _FULLY_DRAWN or count == others or math.log10(count) >= due:
            kept.append((count / others, rate))
            due = math.log10(max(count, 1)) + 1 / _POINTS_A_DECADE
    return tuple(kept)


def _largest_rate(inside: np.ndarray, outside: np.ndarray, fpr: float) -> float:
    false, true = roc(inside, outside)
    return float(true[false <= fpr + 1e-12].max())


def _auc(members: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the AUC of counts of each score, ascending along the last axis."""
    below = others.cumsum(-1) - others / 2
    return (members * below).sum(-1) / (members.sum(-1) * others.sum(-1))


def _transfer(values: np.ndarray, members: np.ndarray, choosing: np.ndarray) -> float | None:
    """Return TPR - FPR on the other half of the best threshold of the `choosing` half."""
    inside, outside = values[choosing & members], values[choosing & ~members]
    judged_in, judged_out = values[~choosing & members], values[~choosing & ~members]
    if not all(map(len, (inside, outside, judged_in, judged_out))):
        return None
    thresholds = np.unique(np.concatenate([inside, outside]))[::-1]
    fpr, tpr = roc(inside, outside)
    best = thresholds[int(np.argmax(tpr[1:] - fpr[1:]))]
    return float((judged_in >= best).mean() - (judged_out >= best).mean())
