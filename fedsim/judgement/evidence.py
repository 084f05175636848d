"""Decisions from evidence: limits are compared with intervals, and failed searches count only if they converged.

Reports of sweeps and audits both use this module, so that equal evidence gives equal verdicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Literal, NamedTuple

from fedsim.metrics.statistics import wilson
from fedsim.metrics.success import Rule
from fedsim.metrics.text import EVERY_WORD
from fedsim.record import Ceiling, Interval, State, VictimRecord

Light = Literal["kept", "undecided", "broken"]

_MOST_UPDATES = 1_000_000
_PICTURE = 20.0  # dB: at this expected error the image is recognisable, although the sampled guess may lack a direction
_IMPROBABLE = 0.01  # bound on the share of audits with a wrong verdict from blind guesses


def held(interval: Interval | None, limit: float, *, is_evidence: bool = True) -> Light:
    """Return whether an upper limit is kept.

    Args:
        interval: measured value with interval; None without a measurement.
        limit: the upper limit, inclusive.
        is_evidence: whether a low value is evidence: failed searches are only if they converged.

    Returns:
        Broken if the lower bound exceeds the limit, kept if the upper bound does not, else undecided.
    """
    if interval is None:
        return "undecided"
    if interval.low is not None and interval.low > limit:
        return "broken"
    if is_evidence and interval.high is not None and interval.high <= limit:
        return "kept"
    return "undecided"


def updates_to_decide(interval: Interval, limit: float, confidence: float) -> int | None:
    """Return how many more updates decide about a limit if the share stays equal; None if no number does."""
    share = interval.value
    if share == limit or limit >= 1.0:
        return None

    def decides(n: int) -> bool:
        at_n = wilson(share * n, n, confidence)
        return (at_n.low or 0.0) > limit if share > limit else (1.0 if at_n.high is None else at_n.high) <= limit

    low, high = interval.n, max(1, interval.n)
    while not decides(high):
        low, high = high, 2 * high
        if high > _MOST_UPDATES:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return max(0, high - interval.n)


def recovered(victim: VictimRecord, rule: Rule) -> int:
    """Return the number of recovered examples of an update."""
    return sum(rule.has_succeeded(item) for item in victim.scores)


def is_evidence(victim: VictimRecord, rule: Rule) -> bool:
    """Return whether a victim is evidence against further recovery.

    True if all examples were recovered, or the search converged, or the ideal attacker would not recover the rest.
    """
    if victim.scores and recovered(victim, rule) == len(victim.scores):
        return True
    return (victim.failure is None and victim.converged is True) or is_out_of_reach(victim, rule)


def is_out_of_reach(victim: VictimRecord, rule: Rule) -> bool:
    """Return whether the ideal attacker recovers no example beyond the recovered ones.

    A failed guess of the ideal attacker is no evidence if its expected error is small: a single unobservable direction,
    such as the contrast, which batch normalisation removes, may determine success, and an attacker that guesses this
    direction recovers the rest.
    """
    if victim.ceiling is None or not victim.ceiling.scores or _is_there(victim.ceiling, rule):
        return False
    within = {item.index for item in victim.ceiling.scores if rule.has_succeeded(item)}
    return not within - {item.index for item in victim.scores if rule.has_succeeded(item)}


def _is_there(ceiling: Ceiling, rule: Rule) -> bool:
    """Return whether the expected error is that of a recovered example."""
    limit = rule.threshold if rule.metric == "psnr" else _PICTURE
    return ceiling.psnr is not None and ceiling.psnr >= limit


class Reach(NamedTuple):
    """Result of the ideal attacker on several updates: median PSNR in dB, share of examples, and both as text.

    If available, the ideal attacker that knows the covariance of public examples.
    """

    psnr: float | None
    share: float | None
    in_words: str


def reach(ceilings: Sequence[Ceiling | None], rule: Rule) -> Reach | None:
    """Return the result of the ideal attacker; None if it was not computed."""
    known = [ceiling for ceiling in ceilings if ceiling is not None]
    if not known:
        return None
    exact = [ceiling for ceiling in known if ceiling.psnr is not None]
    if exact:
        figure = median(ceiling.informed or ceiling.psnr or 0.0 for ceiling in exact)
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


def state_of(victims: Sequence[VictimRecord], rule: Rule) -> State:
    """Return the outcome state of several updates: recovered examples are proof, failed searches only if converged.

    If blind guesses may succeed, more successes than chance explains are required. For text, every word inferred is
    proof too.
    """
    if is_beyond_chance(victims, rule) or any(map(is_every_word_read, victims)):
        return "recovered"
    if any(recovered(victim, rule) for victim in victims):
        return "undecided"
    return "withstood" if victims and all(is_evidence(victim, rule) for victim in victims) else "undecided"


def is_every_word_read(victim: VictimRecord) -> bool:
    """Return whether an attack inferred all words of an update with certainty, possibly without their order."""
    return victim.values.get(EVERY_WORD) == 1.0


def is_beyond_chance(victims: Sequence[VictimRecord], rule: Rule) -> bool:
    """Return whether the successes exceed chance.

    True with a success by a metric with chance level 0, or if the number of successes is improbable for blind guesses
    (binomial test).
    """
    items = [item for victim in victims if victim.failure is None for item in victim.scores]
    if any(rule.is_proof(item) for item in items):
        return True
    hits, n = sum(rule.has_succeeded(item) for item in items), len(items)
    return hits > 0 and at_least(hits, n, blind_chance(victims, rule)) < _IMPROBABLE


def blind_chance(victims: Sequence[VictimRecord], rule: Rule) -> float:
    """Return an upper bound of the share of blind guesses that count as recovered."""
    return max((rule.decides(item.values)[0].chance for victim in victims for item in victim.scores), default=0.0)


def at_least(hits: int, n: int, chance: float) -> float:
    """Return the probability of at least `hits` successes in n independent trials of probability `chance` < 1."""
    fewer, term = 0.0, (1 - chance) ** n
    for k in range(hits):
        fewer, term = fewer + term, term * (n - k) / (k + 1) * chance / (1 - chance)
    return 1 - fewer
