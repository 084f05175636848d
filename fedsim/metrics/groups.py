"""Risk by group, such as the class of an example: significant differences between a group and the rest.

Each group is compared with all others together; p-values are Holm-corrected over the groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np

from fedsim.metrics.comparison import holm
from fedsim.metrics.membership import auc_interval
from fedsim.metrics.statistics import wilson
from fedsim.record import Interval

_FEWEST = 5  # minimum number of members, and of non-members, for the AUC of a group


class GroupRisk(NamedTuple):
    """Risk of a group, and the p-value of no difference to the rest; None without a rest."""

    value: Interval
    p: float | None


def rates(examples: Sequence[tuple[str, bool]], confidence: float = 0.95) -> dict[str, GroupRisk]:
    """Return the share of recovered examples of each group, with p-values of Fisher's exact test.

    Args:
        examples: group and success of each example.
        confidence: coverage of the intervals.
    """
    names = sorted({name for name, _ in examples})
    counts = {name: [hit for group, hit in examples if group == name] for name in names}
    hits, total = sum(hit for _, hit in examples), len(examples)
    p_values = [_fisher(sum(group), len(group), hits, total) for group in counts.values()]
    adjusted = holm(p_values) if len(names) > 1 else [None] * len(names)
    return {
        name: GroupRisk(wilson(sum(group), len(group), confidence), p)
        for (name, group), p in zip(counts.items(), adjusted, strict=True)
    }


def _fisher(successes: int, n: int, hits: int, total: int) -> float:
    from scipy.stats import fisher_exact  # noqa: PLC0415 - a list of metrics need not wait for SciPy

    remainder = total - n
    table = [[successes, n - successes], [hits - successes, remainder - (hits - successes)]]
    return float(cast("tuple[float, float]", fisher_exact(table))[1]) if remainder else 1.0


def aucs(
    scores: np.ndarray,
    is_member: np.ndarray,
    groups: Sequence[str],
    generator: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> dict[str, GroupRisk]:
    """Return the membership AUC within each group.

    p is that of a difference to the AUC among all other groups, by the standard errors of Hanley and McNeil 1982.

    Args:
        scores: shape (N,), higher for likely members.
        is_member: boolean, shape (N,).
        groups: group of each candidate.
        generator: source of the resamples.
        confidence: coverage of the intervals.
        resamples: number of bootstrap resamples.
    """
    named, values, p_values = np.array(groups), dict[str, Interval](), list[float]()
    for name in sorted(set(groups)):
        is_of_it = named == name
        members, non_members = scores[is_of_it & is_member], scores[is_of_it & ~is_member]
        if min(len(members), len(non_members)) < _FEWEST:
            continue
        values[name] = auc_interval(members, non_members, generator, confidence, resamples)
        p_values.append(_differs(members, non_members, scores[~is_of_it & is_member], scores[~is_of_it & ~is_member]))
    return {name: GroupRisk(value, p) for (name, value), p in zip(values.items(), holm(p_values), strict=True)}


def _differs(members: np.ndarray, non_members: np.ndarray, others_in: np.ndarray, others_out: np.ndarray) -> float:
    """Return the p-value of equal AUC in two groups; 1 if the second is too small."""
    from scipy.stats import norm  # noqa: PLC0415 - a list of metrics need not wait for SciPy

    if min(len(others_in), len(others_out)) < _FEWEST:
        return 1.0
    (first, a), (second, b) = _auc(members, non_members), _auc(others_in, others_out)
    error = (a**2 + b**2) ** 0.5
    return 1.0 if error == 0 else float(2 * norm.sf(abs(first - second) / error))


def _auc(members: np.ndarray, non_members: np.ndarray) -> tuple[float, float]:
    """Return the AUC with its standard error."""
    probability = (members[:, None] > non_members).mean() + 0.5 * (members[:, None] == non_members).mean()
    auc, m, n = float(probability), len(members), len(non_members)
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = (auc * (1 - auc) + (m - 1) * (q1 - auc**2) + (n - 1) * (q2 - auc**2)) / (m * n)
    return auc, max(variance, 0.0) ** 0.5
