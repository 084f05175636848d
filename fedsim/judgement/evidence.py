"""Evidence of failed searches: a search that recovered nothing counts only if it converged.

Runs, sweeps and audits use this module, so that equal evidence gives equal verdicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from fedsim.metrics.success import Rule
from fedsim.record import Ceiling, VictimRecord

_PICTURE = 20.0  # dB: at this expected error the image is recognisable, although the sampled guess may lack a direction


def count_recovered(victim: VictimRecord, rule: Rule) -> int:
    """Return the number of recovered examples of an update."""
    return sum(rule.has_succeeded(item) for item in victim.scores)


def is_evidence(victim: VictimRecord, rule: Rule) -> bool:
    """Return whether a victim is evidence against further recovery.

    True if all examples were recovered, or the search converged, or the ideal attacker would not recover the rest.
    """
    if victim.scores and count_recovered(victim, rule) == len(victim.scores):
        return True
    return (victim.failure is None and victim.converged is True) or is_out_of_reach(victim, rule)


def is_out_of_reach(victim: VictimRecord, rule: Rule) -> bool:
    """Return whether the ideal attacker recovers no example that the attack did not recover.

    A failed guess of the ideal attacker is no evidence if its expected error is small: a single unobservable direction,
    such as the contrast, which batch normalisation removes, may determine success, and an attacker that guesses this
    direction recovers the rest.
    """
    if victim.ceiling is None or not victim.ceiling.scores or _is_there(victim.ceiling, rule):
        return False
    reached = {item.index for item in victim.ceiling.scores if rule.has_succeeded(item)}
    return not reached - {item.index for item in victim.scores if rule.has_succeeded(item)}


def _is_there(ceiling: Ceiling, rule: Rule) -> bool:
    """Return whether the expected error counts as a recovery."""
    limit = rule.threshold if rule.metric == "psnr" else _PICTURE
    return ceiling.psnr is not None and ceiling.psnr >= limit


class Reach(NamedTuple):
    """Result of the ideal attacker on several updates: median PSNR in dB, share of examples, and both as text.

    If available, the ideal attacker that knows the covariance of public examples.
    """

    psnr: float | None
    share: float | None
    text: str


def reach(ceilings: Sequence[Ceiling | None], rule: Rule) -> Reach | None:
    """Return the result of the ideal attacker; None if it was not computed."""
    known = [ceiling for ceiling in ceilings if ceiling is not None]
    if not known:
        return None
    exact = [ceiling for ceiling in known if ceiling.psnr is not None]
    if exact:
        figure = median(ceiling.psnr_with_covariance or ceiling.psnr or 0.0 for ceiling in exact)
        items = [item for ceiling in exact for item in ceiling.scores]
        hits = sum(rule.has_succeeded(item) for item in items)
        return Reach(figure, hits / max(1, len(items)), f"{figure:.0f} dB, {hits} of {len(items)}")
    ends = [
        (ceiling.psnr_low, ceiling.psnr_high)
        for ceiling in known
        if ceiling.psnr_low is not None and ceiling.psnr_high is not None
    ]
    if ends:
        low, high = min(low for low, _ in ends), max(high for _, high in ends)
        return Reach(None, None, f"{low:.0f} to {high:.0f} dB")
    return Reach(None, None, known[0].undefined)
