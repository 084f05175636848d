"""Outcomes of attacks on updates: proof is a success beyond chance, and a failed search must be evidence.

`Outcome` is defined in `fedsim.record.findings`, below this package, because every `Finding` states its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedsim.judgement.evidence import count_recovered, is_evidence
from fedsim.metrics.success import Rule
from fedsim.metrics.text import EVERY_WORD
from fedsim.record import Outcome, VictimRecord

_IMPROBABLE = 0.01  # bound on the share of audits with a wrong verdict from blind guesses


def outcome_of(victims: Sequence[VictimRecord], rule: Rule) -> Outcome:
    """Return the outcome of attacks on several updates: recoveries are proof, failed searches only if converged.

    If blind guesses may succeed, more successes than chance explains are required. For text, every word inferred is
    proof too.
    """
    if is_beyond_chance(victims, rule) or any(map(is_every_word_read, victims)):
        return "recovered"
    if any(count_recovered(victim, rule) for victim in victims):
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
    return hits > 0 and binomial_tail(hits, n, blind_chance(victims, rule)) < _IMPROBABLE


def blind_chance(victims: Sequence[VictimRecord], rule: Rule) -> float:
    """Return an upper bound of the share of blind guesses that count as recovered."""
    return max((rule.decides(item.values)[0].chance for victim in victims for item in victim.scores), default=0.0)


def binomial_tail(hits: int, n: int, chance: float) -> float:
    """Return the probability of at least `hits` successes in n independent trials of probability `chance` < 1."""
    lower_tail, term = 0.0, (1 - chance) ** n
    for k in range(hits):
        lower_tail, term = lower_tail + term, term * (n - k) / (k + 1) * chance / (1 - chance)
    return 1 - lower_tail
