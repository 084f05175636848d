"""The verdict of an audit under a policy: broken thresholds, what is undecided, and the recommended defense.

A threshold is judged on the interval: broken only if its lower end breaks it, kept only if its upper end keeps it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from fedsim.audit import evidence
from fedsim.audit.record import AuditRecord, Inspection, Trial
from fedsim.metrics.evidence import held
from fedsim.metrics.membership import name_of
from fedsim.record import Finding, GuaranteeRecord, Interval
from fedsim.record.policy import Policy
from fedsim.scenario import Scoring

BROKEN, UNDECIDED = 3, 4  # exit codes
MEMBERS_FOUND = name_of(0.01)  # the metric of max_membership_tpr
_NEARLY = 0.9  # share of the minutes

Judgement = Literal["yes", "no", "undecided"]
_ORDER: tuple[Judgement, ...] = ("yes", "undecided", "no")


def broken(record: AuditRecord) -> tuple[str, ...]:
    """Return a sentence for every threshold that the client breaks as it is."""
    return (
        *_recognisable(record.policy, record.inspections),
        *_members(record.policy, record.findings),
        *_epsilon(record.policy, record.guarantees),
    )


def exit_code(record: AuditRecord) -> int:
    """Return what a pipeline sees: 0, `BROKEN`, or `UNDECIDED` unless the policy lets that pass."""
    if broken(record):
        return BROKEN
    return UNDECIDED if unjudged(record) and record.policy.undecided == "fail" else 0


def unjudged(record: AuditRecord) -> tuple[str, ...]:
    """Return a sentence for every threshold that the audit leaves undecided."""
    policy = record.policy
    found = list(_open_inspections(policy, record.inspections, record.plan.scoring))
    if policy.max_membership_tpr is not None and not tuple(_members(policy, record.findings)):
        found += _open_members(policy, record.findings)
    return tuple(f"Undecided: {own}." for own in found)


def _open_inspections(policy: Policy, inspections: Sequence[Inspection], scoring: Scoring) -> Iterator[str]:
    if policy.max_recognisable is None:
        return
    if not any(own.recovered is not None and not own.is_unknown for own in inspections):
        yield "max_recognisable was not judged, since no reconstruction was scored"
        return
    for own in inspections:
        if own.failure is None and not tuple(_recognisable(policy, [own])):
            reasons = (*evidence.doubts(own, scoring), *_open_share(policy, own, scoring.confidence))
            if reasons:
                yield f"max_recognisable on batch {own.batch_size}, since {'; '.join(reasons)}"


def _open_share(policy: Policy, found: Inspection, confidence: float) -> Iterator[str]:
    """Yield a sentence where too few updates were attacked for the limit."""
    limit = policy.max_recognisable
    if limit is None or found.summary is None:
        return
    share = found.summary.success
    if held(share, limit) != "undecided":
        return
    least, most = 100 * (share.low or 0.0), 100 if share.high is None else 100 * share.high
    more = evidence.more(found, limit, confidence)
    yield (
        f"n = {share.n} leaves {least:.0f} to {most:.0f} % open and the limit is {100 * limit:g} %"
        f"{f': {more}' if more else ''}"
    )


def _open_members(policy: Policy, findings: Sequence[Finding]) -> Iterator[str]:
    limit, best = policy.max_membership_tpr, best_membership(findings)
    if limit is None:
        return
    if best is None:
        yield (
            "max_membership_tpr was not judged, since no membership attack came to a rate at 1 % false positives, "
            "which takes time and at least 100 non-members, half of the test data"
        )
    elif held(best[1], limit) == "undecided":
        most = 100 if best[1].high is None else 100 * best[1].high
        yield f"{best[0]} may find up to {most:.0f} % of the members, and the limit is {100 * limit:g} %"


def broken_by(policy: Policy, trial: Trial) -> tuple[str, ...]:
    """Return a sentence for every threshold that a client with one more defense breaks."""
    return (
        *_recognisable(policy, [] if trial.inspection is None else [trial.inspection]),
        *_members(policy, trial.findings),
        *_epsilon(policy, trial.guarantees),
        *_accuracy(policy, trial.accuracy_loss),
    )


def best_membership(findings: Sequence[Finding]) -> tuple[str, Interval] | None:
    """Return name and TPR at 1 % FPR of the best membership attack; None where there are too few data."""
    rates = [(finding.label, tpr) for finding in findings if (tpr := finding.figure(MEMBERS_FOUND))]
    return max(rates, key=lambda rate: rate[1].value) if rates else None


def judged(record: AuditRecord, trial: Trial) -> Judgement:
    """Return whether a client with one more defense keeps the policy; "yes" only with evidence."""
    if broken_by(record.policy, trial):
        return "no"
    return "undecided" if undecided(record, trial) else "yes"


def undecided(record: AuditRecord, trial: Trial) -> tuple[str, ...]:
    """Return what is missing to say that a defense protects the client, as sentences without full stops."""
    return tuple(_undecided(record, trial))


def _undecided(record: AuditRecord, trial: Trial) -> Iterator[str]:
    policy, found, lost = record.policy, trial.inspection, trial.accuracy_loss
    if found is None:
        yield "it was not attacked"
        return
    yield from evidence.doubts(found, record.plan.scoring)
    yield from weak_control(record)
    if lost is None or lost.high is None:
        yield "what it costs has no interval"
    if policy.is_empty:
        if not evidence.is_below(found, record.control):
            yield "the intervals with and without it overlap"
        return
    yield from _open_share(policy, found, record.plan.scoring.confidence)
    yield from _open_members(policy, trial.findings)
    limit = policy.max_accuracy_loss
    if limit is not None and lost is not None and lost.high is not None and held(lost, limit) == "undecided":
        most = f"up to {100 * lost.high:.1f} points"
        yield f"it may cost {most} of test accuracy, and the limit is {100 * limit:g} points"


def weak_control(record: AuditRecord) -> tuple[str, ...]:
    """Return why the client without further defenses is not a valid control, as sentences without full stops."""
    found, own = list[str](), record.training
    if record.control is None or control_failed(record):
        found.append("without it nothing was recovered either")
    if own is not None and not evidence.has_learned(own):
        found.append(
            f"without it the training learned nothing (test accuracy {100 * own.accuracy:.0f} %, the most frequent "
            f"class {100 * own.guessing:.0f} %), so what it costs is not known"
        )
    return tuple(found)


def unused(record: AuditRecord) -> str:
    """Return why time was left, as a sentence; empty where nearly all was used."""
    given = 60.0 * record.plan.minutes
    if record.status != "finished" or record.seconds >= _NEARLY * given:
        return ""
    tried = "every defense that fits was tried" if record.plan.defend else "no defense was to be tried"
    return (
        f"{given - record.seconds:.0f} of {given:.0f} s were left: further updates could not change what is said of "
        f"the policy, and {tried}."
    )


def rank(record: AuditRecord) -> list[Trial]:
    """Return the defenses that were measured, the best first.

    Those that keep the policy come first, then undecided ones. Defenses that keep the policy are sorted by their cost,
    others by what they let through.
    """

    def key(trial: Trial) -> tuple[float, ...]:
        state, share = _ORDER.index(judged(record, trial)), _share(trial.inspection)
        breaks = len(broken_by(record.policy, trial))
        lost = max(trial.accuracy_loss.value, 0.0) if trial.accuracy_loss else 1.0
        slowdown = trial.slowdown or 1.0
        if breaks or record.policy.is_empty:
            return state, breaks, share, lost, slowdown
        return state, breaks, lost, share, slowdown

    return sorted(_measure(record), key=key)


def recommend(record: AuditRecord) -> Trial | None:
    """Return the recommended defense, or None without evidence for one.

    It keeps the policy; without a policy it lets less through than no defense.
    """
    first = next(iter(rank(record)), None)
    return first if first is not None and judged(record, first) == "yes" else None


def sentence(record: AuditRecord) -> str:
    """Return the recommendation and its cost, as text."""
    if record.inspections and all(own.is_unknown for own in record.inspections):
        if any(own.is_short for own in record.inspections):
            return "No attack returned a guess within the time, so nothing is known. Give the audit more minutes."
        return "No attack returned a guess, so nothing is known. The page says why each one failed."
    best = recommend(record)
    if best is None:
        return _why_none(record)
    settings = ", ".join(f"{name} = {value}" for name, value in best.settings.items())
    return f"Recommended: {best.name}{f' ({settings})' if settings else ''}. {_cost(best)}"


def _why_none(record: AuditRecord) -> str:
    if record.plan.is_captured:
        return "A captured update cannot be defended afterwards: audit the factory without it to try defenses."
    if not record.plan.defend:
        return "No defense was tried, as asked for."
    if control_failed(record):
        return _without_control(record)
    closest = next(iter(rank(record)), None)
    if closest is None:
        return "Undecided: no defense was attacked and trained within the time. Give the audit more minutes."
    if judged(record, closest) == "undecided":
        return (
            f"Undecided: no defense is recommended. {closest.name} comes closest, but "
            f"{'; '.join(undecided(record, closest))}."
        )
    return (
        f"None of the {len(_measure(record))} defenses that were measured is enough. {closest.name} comes closest. "
        f"{_cost(closest)}"
    )


def _without_control(record: AuditRecord) -> str:
    if any(own.recovered for own in record.inspections):
        return (
            "Undecided: in the short time that each defense got, the attack did not succeed even without one, so none "
            "is recommended. Give the audit more minutes."
        )
    reasons = dict.fromkeys(
        reason for own in record.inspections for reason in evidence.doubts(own, record.plan.scoring)
    )
    if reasons:
        return f"Undecided: nothing was recovered without further defenses, but {'; '.join(reasons)}."
    return (
        "The updates withstood: nothing was recovered without further defenses by searches that converged, so none is "
        "recommended. That is no guarantee."
    )


def _cost(trial: Trial) -> str:
    assert trial.inspection is not None
    assert trial.training is not None
    assert trial.accuracy_loss is not None
    lost = trial.accuracy_loss
    interval = ""
    if lost.low is not None and lost.high is not None:
        interval = f" ({100 * lost.low:+.1f} to {100 * lost.high:+.1f})"
    stated = max((own.epsilon for own in trial.guarantees), default=None)
    guarantee = "none, and no attack that failed is one" if stated is None else f"epsilon {stated:.3g}"
    return (
        f"With it {_recover(trial.inspection)} of the examples of batch {trial.inspection.batch_size} were recovered "
        f"({len(trial.inspection.victims)} updates, {trial.inspection.iterations} iterations); it costs "
        f"{100 * lost.value:+.1f}{interval} points of test accuracy (n = {lost.n}) after {trial.training.rounds} "
        f"rounds, changes the test loss by {trial.loss_change or 0.0:+.3f}, and a round takes "
        f"{trial.training.seconds_a_round:.2g} s, {trial.slowdown or 1.0:.2g} times as long as without. Guarantee: "
        f"{guarantee}."
    )


def _recover(found: Inspection) -> str:
    share = found.summary.success if found.summary else None
    if share is None:
        return "an unknown share"
    if share.low is None or share.high is None:
        return f"{100 * share.value:.0f} %"
    return f"{100 * share.value:.0f} % ({100 * share.low:.0f} to {100 * share.high:.0f})"


def _measure(record: AuditRecord) -> list[Trial]:
    return [own for own in record.trials if own.inspection is not None and own.training is not None]


def control_failed(record: AuditRecord) -> bool:
    """Return whether the attacks of the trials failed on the client without further defenses."""
    return record.control is not None and not record.control.recovered


def _share(inspection: Inspection | None) -> float:
    """Return what a defense lets through, as far as is known: all, where every attack on it failed."""
    return 1.0 if inspection is None or inspection.recovered is None else inspection.recovered


def _recognisable(policy: Policy, inspections: Sequence[Inspection]) -> Iterator[str]:
    limit = policy.max_recognisable
    for own in inspections:
        if limit is not None and own.summary is not None and held(own.summary.success, limit) == "broken":
            yield (
                f"max_recognisable = {limit:g}, but {_recover(own)} of the attacked examples of batch {own.batch_size} "
                "were recovered."
            )


def _members(policy: Policy, findings: Sequence[Finding]) -> Iterator[str]:
    limit, best = policy.max_membership_tpr, best_membership(findings)
    if limit is not None and best is not None and held(best[1], limit) == "broken":
        yield (
            f"max_membership_tpr = {limit:g}, but {best[0]} finds {100 * best[1].value:.0f} % of the members at 1 % "
            "false positives."
        )


def _epsilon(policy: Policy, stated: Sequence[GuaranteeRecord]) -> Iterator[str]:
    limit = policy.max_epsilon
    if limit is None:
        return
    if not stated:
        yield f"max_epsilon = {limit:g}, but nothing in the client states an epsilon."
        return
    weakest = max(own.epsilon for own in stated)
    if weakest > limit:
        yield f"max_epsilon = {limit:g}, but the weakest guarantee is epsilon {weakest:.3g}."


def _accuracy(policy: Policy, lost: Interval | None) -> Iterator[str]:
    limit = policy.max_accuracy_loss
    if limit is not None and lost is not None and held(lost, limit) == "broken":
        yield f"max_accuracy_loss = {limit:g}, but it costs {100 * lost.value:.1f} points of test accuracy."
