"""Membership inference metrics: ROC curve, AUC, and TPR at low FPR.

An attacker that is certain about a few members is a threat even if the other decisions are random, so the AUC alone is
insufficient (Carlini et al. 2022, arXiv 2112.03570, section III).
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
    """Separation of members from non-members by scores.

    Attributes:
        auc: probability that a member scores above a non-member.
        advantage: TPR - FPR (twice the balanced accuracy minus one) at a threshold chosen on one half of the candidates
            and evaluated on the other.
        rates: TPR by FPR, in descending order of FPR; without FPRs that the number of non-members cannot resolve.
        roc: (FPR, TPR), thinned.
    """

    auc: Interval
    advantage: float
    rates: dict[float, Interval]
    roc: tuple[tuple[float, float], ...]

    @property
    def figures(self) -> dict[str, Interval]:
        """All values, by the name of their metric."""
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
        scores: shape (N,), higher for likely members; infinities are allowed.
        is_member: boolean, shape (N,), with at least one of each kind, in random order.
        generator: source of the resamples.
        confidence: coverage of each interval, in (0, 1).
        resamples: number of bootstrap resamples.

    Raises:
        ValueError: there is no member, or no non-member.
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
    """Return (FPR, TPR) at each threshold, from (0, 0) to (1, 1); scores at or above the threshold are positive.

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
    """Return the probability that a member scores above a non-member; ties count half.

    The interval is a percentile bootstrap that resamples members and non-members separately; n is the number of both. A
    resample is represented by counts of each distinct score, so no further sorting is needed.
    """
    levels, index = np.unique(np.concatenate([inside, outside]), return_inverse=True)
    members, non_members = (
        np.bincount(part, minlength=len(levels)) for part in (index[: len(inside)], index[len(inside) :])
    )
    value = float(_auc(members, non_members))
    resampled = [
        generator.multinomial(counts.sum(), counts / counts.sum(), size=resamples) for counts in (members, non_members)
    ]
    low, high = np.quantile(_auc(*resampled), [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(value=value, low=float(low), high=float(high), n=len(inside) + len(outside))


def tpr_at(inside: np.ndarray, outside: np.ndarray, fpr: float, confidence: float = 0.95) -> Interval | None:
    """Return the largest TPR whose FPR is at most `fpr`, with its Clopper-Pearson interval; n is the number of members.

    The interval treats the threshold as fixed. None with fewer than 1 / fpr non-members.
    """
    if len(outside) * fpr < 1 - 1e-9:
        return None
    hits = round(_largest_rate(inside, outside, fpr) * len(inside))
    return clopper_pearson(hits, len(inside), confidence)


def rate_of_luck(scores: Tensor, is_member: Tensor, fpr: float, generator: np.random.Generator) -> float:
    """Return the chance level of `tpr_at`: its mean over random permutations of the membership labels.

    It is above `fpr`, especially with few non-members, because the threshold is chosen on the evaluated examples.

    Args:
        scores: shape (N,).
        is_member: boolean, shape (N,).
        fpr: false-positive rate, in (0, 1), at least one over the number of non-members.
        generator: source of the permutations.
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
    """Return `tpr_at` an FPR of 0.1."""
    return tpr_at(inside, outside, 0.1, confidence)


@metric(
    "tpr_at_fpr_0.01",
    title="TPR at FPR 1%",
    summary="share of the members that are found where at most 1% of the others are accused",
    **_RATE,
)
def tpr_at_one_in_a_hundred(inside: np.ndarray, outside: np.ndarray, confidence: float = 0.95) -> Interval | None:
    """Return `tpr_at` an FPR of 0.01."""
    return tpr_at(inside, outside, 0.01, confidence)


@metric(
    "tpr_at_fpr_0.001",
    title="TPR at FPR 0.1%",
    summary="share of the members that are found where at most 0.1% of the others are accused",
    **_RATE,
)
def tpr_at_one_in_a_thousand(inside: np.ndarray, outside: np.ndarray, confidence: float = 0.95) -> Interval | None:
    """Return `tpr_at` an FPR of 0.001."""
    return tpr_at(inside, outside, 0.001, confidence)


def name_of(fpr: float) -> str:
    """Return the metric name of the TPR at an FPR."""
    return f"tpr_at_fpr_{fpr:g}"


def clopper_pearson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Return a rate with its exact interval, whose coverage is at least the stated confidence.

    Raises:
        ValueError: n is 0 or the successes are out of range.
    """
    from scipy.stats import binomtest  # noqa: PLC0415 - a run without membership attacks need not wait for SciPy

    bounds = binomtest(successes, n).proportion_ci(confidence, method="exact")
    return Interval(value=successes / n, low=float(bounds.low), high=float(bounds.high), n=n)


@metric(
    "advantage",
    title="advantage",
    summary="TPR - FPR at a threshold chosen on half of the candidates and evaluated on the other half",
    over="finding",
    limits=(-1.0, 1.0),
)
def advantage(values: np.ndarray, members: np.ndarray) -> float:
    """Return TPR - FPR at a threshold chosen on one half of the candidates and evaluated on the other.

    Both halves choose in turn, and the mean is returned, so it is 0 on average for uninformative scores; the best
    threshold in hindsight would be biased upwards. Halves without members or non-members are skipped.
    """
    parity = np.arange(len(values)) % 2 == 0
    gains = [_transfer(values, members, choosing) for choosing in (parity, ~parity)]
    return float(np.mean([gain for gain in gains if gain is not None] or [0.0]))


def thin(fpr: np.ndarray, tpr: np.ndarray, non_members: int) -> tuple[tuple[float, float], ...]:
    """Return the ROC's upper point at each number of false positives, all up to 20, then about 40 per decade."""
    alarms = np.rint(fpr * non_members).astype(int)
    highest = {int(count): float(rate) for count, rate in zip(alarms, tpr, strict=True)}
    kept: list[tuple[float, float]] = []
    due = 0.0
    for count, rate in highest.items():
        if count <= _FULLY_DRAWN or count == non_members or math.log10(count) >= due:
            kept.append((count / non_members, rate))
            due = math.log10(max(count, 1)) + 1 / _POINTS_A_DECADE
    return tuple(kept)


def _largest_rate(inside: np.ndarray, outside: np.ndarray, fpr: float) -> float:
    false, true = roc(inside, outside)
    return float(true[false <= fpr + 1e-12].max())


def _auc(members: np.ndarray, non_members: np.ndarray) -> np.ndarray:
    """Return the AUC from counts of each score, in ascending order along the last axis."""
    lower = non_members.cumsum(-1) - non_members / 2
    return (members * lower).sum(-1) / (members.sum(-1) * non_members.sum(-1))


def _transfer(values: np.ndarray, members: np.ndarray, choosing: np.ndarray) -> float | None:
    """Return TPR - FPR on the other half at the best threshold of the `choosing` half."""
    members_scores, non_members_scores = values[choosing & members], values[choosing & ~members]
    judged_in, judged_out = values[~choosing & members], values[~choosing & ~members]
    if not all(map(len, (members_scores, non_members_scores, judged_in, judged_out))):
        return None
    thresholds = np.unique(np.concatenate([members_scores, non_members_scores]))[::-1]
    fpr, tpr = roc(members_scores, non_members_scores)
    best = thresholds[int(np.argmax(tpr[1:] - fpr[1:]))]
    return float((judged_in >= best).mean() - (judged_out >= best).mean())
