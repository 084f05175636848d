"""The verdict of an audit under a policy: broken thresholds, what is undecided, and the recommended defense."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from fedsim.audit import evidence, limits
from fedsim.audit.record import AuditArm, AuditRecord
from fedsim.audit.scoring import verdict_of
from fedsim.judgement import ranking
from fedsim.judgement.evidence import count_recovered
from fedsim.judgement.limits import LimitState
from fedsim.judgement.outcome import outcome_of
from fedsim.judgement.ranking import Rank
from fedsim.metrics.success import LEVELS, Rule
from fedsim.record import Outcome
from fedsim.report.limits import reasons, share_in_words
from fedsim.report.limits import sentence as sentence_of
from fedsim.report.verdict import join_words

_NEARLY = 0.9  # share of the minutes


class Answer(NamedTuple):
    """What updates of the client as it is give away: the state of the worst batch size, and one sentence."""

    state: Outcome
    sentence: str


def answer(record: AuditRecord) -> Answer:
    """Return what a reader wants to know first."""
    rule, noun = record.plan.scoring.rule, record.noun
    arms = list(_attacked_arms(record))
    if not arms:
        return Answer("undecided", f"Undecided: {_no_guess(record)}")
    if not any(victim.scores for arm in arms for victim in arm.victims):
        return Answer("undecided", f"Undecided: without the client's {noun}s the guess cannot be scored.")
    states = [(arm, outcome_of(arm.victims, rule)) for arm in arms]
    opened = list(_recovered_arms(record))
    if opened:
        return Answer("recovered", _what_comes_back(opened, rule, noun))
    number = sum(len(arm.victims) for arm in arms)
    updates = _updates_of(arms, noun) if number > 1 else _updates_of(arms, noun).replace("updates", "update", 1)
    claim = f"no {noun} came back from {number} {updates} in {_seconds(arms)} s"
    if any(state == "undecided" for _, state in states):
        decides = _longer(record)
        return Answer("undecided", f"Undecided: {claim}, and the searches do not show that none could; {decides}.")
    additions = "".join(f"; {text}" for text in _needed_updates(record, arms))
    return Answer(
        "withstood", f"Withstood: {claim}, and a longer search would not help; that is no guarantee{additions}."
    )


def _attacked_arms(record: AuditRecord) -> Iterator[AuditArm]:
    """Yield the batch sizes for which an attack returned a guess."""
    return (arm for arm in record.client if arm.victims and not arm.is_unknown)


def _no_guess(record: AuditRecord) -> str:
    """Return why no attack returned a guess, as a sentence that begins in lower case."""
    if not record.client:
        return "no update was attacked within the time. Give the audit more minutes."
    if any(evidence.ended_early(arm.victims) for arm in record.client):
        return "no attack returned a guess within the time. Give the audit more minutes."
    failures = [
        arm.failure or next((victim.failure for victim in arm.victims if victim.failure), "") for arm in record.client
    ]
    reasons = "; ".join(dict.fromkeys(failure.rstrip(".") for failure in failures if failure))
    return f"every attack failed ({reasons}). A failed attack is no evidence."


def _recovered_arms(record: AuditRecord) -> Iterator[AuditArm]:
    """Yield the batch sizes with recovered examples."""
    for arm in _attacked_arms(record):
        if outcome_of(arm.victims, record.plan.scoring.rule) == "recovered":
            yield arm


def first_named(record: AuditRecord) -> AuditArm | None:
    """Return the batch size that the answer names first; None where it names none."""
    return next(_recovered_arms(record), next(_attacked_arms(record), None))


def _seconds(arms: Sequence[AuditArm]) -> int:
    """Return the duration of the attacks in seconds, rounded up."""
    return max(1, math.ceil(sum(victim.seconds for arm in arms for victim in arm.victims)))


def _longer(record: AuditRecord) -> str:
    """Return a sentence on the evidence that would decide, if searches are no evidence."""
    if record.needed_minutes is None:
        return "an attack that succeeds, or a guarantee, would decide"
    return f"--minutes {record.needed_minutes} allows searches as long as in the literature"


def _needed_updates(record: AuditRecord, arms: Sequence[AuditArm]) -> Iterator[str]:
    """Yield how many more updates would decide about the policy, of the first batch size that needs more."""
    limit, confidence = record.policy.max_recovered, record.plan.scoring.confidence
    if limit is not None:
        needed = (
            evidence.needed_updates(arm, limit, confidence)
            for arm in arms
            if evidence.may_change(arm, limit, record.plan.scoring.rule)
        )
        yield from islice(filter(None, needed), 1)


def _what_comes_back(arms: Sequence[AuditArm], rule: Rule, noun: str) -> str:
    counts = [sum(count_recovered(victim, rule) for victim in arm.victims) for arm in arms]
    examples = [sum(len(victim.scores) for victim in arm.victims) for arm in arms]
    senders = _updates_of(arms, noun).capitalize()
    number = sum(len(arm.victims) for arm in arms)
    effort = f"{number} update{'s were' if number > 1 else ' was'} attacked for {_seconds(arms)} s"
    if not any(counts):
        return f"{senders} give every word away, though not its place: {effort}."
    noun_text = f"the {noun}" if [arm.batch_size for arm in arms] == [1] else f"{noun}s"
    stated = "; ".join(f"{count} of {number}" for count, number in zip(counts, examples, strict=True))
    levels = [rule.level(item) for arm in arms for victim in arm.victims for item in victim.scores]
    return f"{senders} {_deed(noun_text, stated, Counter(filter(None, levels)))}: {effort}."


def _deed(noun: str, stated: str, levels: Counter[str]) -> str:
    """Return what updates do to examples, as the weakest of the successes allows: give back, or identify."""
    deeds = {
        "exact": f"give {noun} back exactly",
        "readable": f"give {noun} back in a readable form",
        "identified": f"let {noun} be identified",
    }
    weakest = max(levels, key=lambda level: LEVELS.index(level) if level in LEVELS else len(LEVELS))
    better = [f"{levels[level]} {level}" for level in LEVELS if levels[level] and level != weakest]
    qualifiers = ["none readable"] if weakest == "identified" and not better else []
    return f"{deeds.get(weakest, f'give {noun} back')} ({'; '.join((stated, *better, *qualifiers))})"


def _updates_of(arms: Sequence[AuditArm], noun: str) -> str:
    sizes = [arm.batch_size for arm in arms]
    return f"updates of one {noun}" if sizes == [1] else f"updates of {join_words(list(map(str, sizes)))} {noun}s"


def broken(record: AuditRecord) -> tuple[str, ...]:
    """Return a sentence for every threshold that the client breaks as it is."""
    return tuple(
        sentence_of(threshold) for threshold in limits.client_thresholds(record) if threshold.state == "broken"
    )


def undecided_sentences(record: AuditRecord) -> tuple[str, ...]:
    """Return a sentence for every threshold that the audit leaves undecided."""
    undecided_limits = (limit for limit in limits.client_thresholds(record) if limit.state == "undecided")
    return tuple(dict.fromkeys(map(sentence_of, undecided_limits)))


def broken_by(record: AuditRecord, arm: AuditArm) -> tuple[str, ...]:
    """Return a sentence for every threshold that a client with one more defense breaks."""
    return tuple(
        sentence_of(threshold) for threshold in limits.defense_thresholds(record, arm) if threshold.state == "broken"
    )


def judge_defense(record: AuditRecord, arm: AuditArm) -> LimitState:
    """Return whether a client with one more defense keeps the policy; kept only with evidence."""
    if broken_by(record, arm):
        return "broken"
    return "undecided" if missing_evidence(record, arm) else "kept"


def missing_evidence(record: AuditRecord, arm: AuditArm) -> tuple[str, ...]:
    """Return what is missing to say that a defense protects the client, as sentences without full stops."""
    return tuple(dict.fromkeys(_missing_evidence(record, arm)))


def _missing_evidence(record: AuditRecord, arm: AuditArm) -> Iterator[str]:
    if not arm.victims:
        yield "it was not attacked"
        return
    yield from evidence.doubts(arm, record.plan.scoring.rule)
    yield from weak_control(record)
    if arm.cost is None or arm.cost.accuracy_loss.high is None:
        yield "its cost has no interval"
    if record.policy.is_empty and not evidence.is_below(
        arm.recovered_share, record.control and record.control.recovered_share
    ):
        yield "the intervals with and without it overlap"
    yield from (reason for threshold in limits.defense_thresholds(record, arm) for reason in reasons(threshold))


def weak_control(record: AuditRecord) -> tuple[str, ...]:
    """Return why the client without further defenses is not a valid control, as sentences without full stops."""
    reasons, training = list[str](), record.training
    if record.control is None or control_failed(record):
        reasons.append("without it nothing was recovered either")
    if training is not None and not evidence.has_learned(training):
        reasons.append(
            "without it the training learned nothing (test accuracy "
            f"{100 * training.accuracy:.0f} %, always the most frequent answer "
            f"{100 * training.majority_accuracy:.0f} %), so its cost is not known"
        )
    return tuple(reasons)


def unused_time_reason(record: AuditRecord) -> str:
    """Return why time was left, as a sentence; empty where nearly all was used."""
    given = 60.0 * record.plan.minutes
    if record.status != "finished" or record.seconds >= _NEARLY * given or not any(_attacked_arms(record)):
        return ""
    tried = "every defense that fits was tried" if record.plan.defend else "no defense was to be tried"
    tried = "defenses cannot be judged where nothing is recovered without them" if control_failed(record) else tried
    is_sealed = record.is_captured and record.training is None
    tried = "a captured update cannot be defended" if is_sealed else tried
    return (
        f"{given - record.seconds:.0f} of {given:.0f} s were left: further updates could not "
        f"change the policy verdict, and {tried}."
    )


def rank(record: AuditRecord) -> list[AuditArm]:
    """Return the measured defenses, the best first; see `fedsim.judgement.ranking.rank`."""

    def key(arm: AuditArm) -> Rank:
        cost = (max(arm.cost.accuracy_loss.value, 0.0), arm.cost.slowdown) if arm.cost else (1.0, 1.0)
        share = arm.recovered_share.value if arm.recovered_share else 1.0
        return ranking.rank(judge_defense(record, arm), limits.defense_thresholds(record, arm), cost=cost, risk=share)

    return sorted(_measure(record), key=key)


def recommend(record: AuditRecord) -> AuditArm | None:
    """Return the recommended defense, or None without evidence for one.

    It keeps the policy; without a policy it lets less through than no defense.
    """
    first = next(iter(rank(record)), None)
    return first if first is not None and judge_defense(record, first) == "kept" else None


def sentence(record: AuditRecord) -> str:
    """Return the recommendation and its cost, as text."""
    if not any(_attacked_arms(record)):
        return "No defense is recommended: without a guess from the client's updates none can be judged."
    best = recommend(record)
    if best is None:
        return _why_none(record)
    settings = ", ".join(f"{name} = {value}" for name, value in best.settings.items())
    return f"Recommended: {best.name}{f' ({settings})' if settings else ''}. {_cost(record, best)}"


def _why_none(record: AuditRecord) -> str:
    if record.is_captured and record.training is None:
        return (
            "A captured update cannot be defended afterwards: audit a function that returns (model, loss, loader) to "
            "try defenses."
        )
    if not record.plan.defend:
        return "No defense was tried, as requested."
    if control_failed(record):
        return _explain_missing_control(record)
    closest = next(iter(rank(record)), None)
    if closest is None:
        return "Undecided: no defense was attacked and trained within the time. Give the audit more minutes."
    return _none_helped(record) or _not_enough(record, closest)


def _not_enough(record: AuditRecord, closest: AuditArm) -> str:
    if judge_defense(record, closest) == "undecided":
        return (
            f"Undecided: no defense is recommended. {closest.name} comes closest, but "
            f"{'; '.join(missing_evidence(record, closest))}."
        )
    measured = _measure(record)
    if len(measured) == 1:
        return f"The only defense that was measured, {closest.name}, is not enough. {_cost(record, closest)}"
    return (
        f"None of the {len(measured)} defenses that were measured is enough. {closest.name} comes closest. "
        f"{_cost(record, closest)}"
    )


def _none_helped(record: AuditRecord) -> str:
    """Return that with every defense as much was recovered as without, as a sentence; empty where with one less was."""
    measured, undefended = _measure(record), record.control and record.control.recovered_share
    shares = [arm.recovered_share.value for arm in measured if arm.recovered_share]
    if undefended is None or not undefended.value or len(shares) < len(measured) or min(shares) < undefended.value:
        return ""
    weakest = max(measured, key=lambda arm: arm.recovered_share.value if arm.recovered_share else 0.0)
    share = share_in_words(weakest.recovered_share)
    if len(measured) == 1:
        defenses_text = f"The only defense that was measured, {measured[0].name}, did not help: with it"
    else:
        defenses_text = f"None of the {len(measured)} defenses that were measured helped: with each of them"
    return f"{defenses_text} as many were {verdict_of(record)} as without, {share}."


def _explain_missing_control(record: AuditRecord) -> str:
    if any(arm.recovered_share and arm.recovered_share.value for arm in record.client):
        return (
            "Undecided: in the short time for each defense, the attack did not succeed even "
            "without defense, so none was tried. Increase --minutes."
        )
    reasons = dict.fromkeys(
        reason for arm in record.client for reason in evidence.doubts(arm, record.plan.scoring.rule)
    )
    if reasons:
        return f"Undecided: nothing was recovered without further defenses, but {'; '.join(reasons)}."
    return (
        "The updates withstood: nothing was recovered without further defenses by searches that converged, so none is "
        "recommended. That is no guarantee."
    )


def _cost(record: AuditRecord, arm: AuditArm) -> str:
    assert arm.training is not None
    assert arm.cost is not None
    lost, word = arm.cost.accuracy_loss, verdict_of(record)
    interval = ""
    if lost.low is not None and lost.high is not None:
        interval = f" ({100 * lost.low:+.1f} to {100 * lost.high:+.1f})"
    stated = max((guarantee.epsilon for guarantee in arm.guarantees), default=None)
    guarantee = "none, and a failed attack is no guarantee" if stated is None else f"epsilon {stated:.3g}"
    return (
        f"With it {share_in_words(arm.recovered_share)} of the examples of batch {arm.batch_size} were {word} "
        f"({len(arm.victims)} updates, {evidence.iterations(arm.victims)} iterations); it costs "
        f"{100 * lost.value:+.1f}{interval} points of test accuracy (n = {lost.n}) after {arm.training.rounds} "
        f"rounds, changes the test loss by {arm.cost.loss_change:+.3f}, and a round takes "
        f"{arm.training.seconds_a_round:.2g} s, {arm.cost.slowdown:.2g} times as long as without. Guarantee: "
        f"{guarantee}."
    )


def _measure(record: AuditRecord) -> list[AuditArm]:
    return [arm for arm in record.defense_arms if arm.cost is not None and not arm.failure]


def control_failed(record: AuditRecord) -> bool:
    """Return whether the attacks of the trials failed on the client without further defenses."""
    return record.control is not None and not (record.control.recovered_share and record.control.recovered_share.value)
