"""What an audit means for the policy: thresholds that are broken, and the defense to be recommended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fedsim.audit.record import AuditRecord, Inspection, Trial
from fedsim.record import GuaranteeRecord, Interval, MembershipRecord
from fedsim.record.policy import Policy

BROKEN = 3  # exit code
_FPR = 0.01


def broken(record: AuditRecord) -> tuple[str, ...]:
    """Return a sentence for every threshold that the client as it is breaks."""
    return (
        *_recognisable(record.policy, record.inspections),
        *_members(record.policy, record.membership),
        *_epsilon(record.policy, record.guarantees),
    )


def unjudged(record: AuditRecord) -> tuple[str, ...]:
    """Return a sentence for every threshold about which the audit says nothing."""
    policy, found = record.policy, list[str]()
    if policy.max_recognisable is not None:
        if not any(own.recovered is not None and not own.is_unknown for own in record.inspections):
            found.append("max_recognisable was not judged: no reconstruction was scored.")
        found += [
            f"max_recognisable: the search on batch {own.batch_size} was ended by the clock; it might recover more."
            for own in record.inspections
            if own.is_short
        ]
    if policy.max_membership_tpr is not None and best_membership(record.membership) is None:
        found.append(
            "max_membership_tpr was not judged: no membership attack came to a rate at 1 % false positives, which "
            "takes time and at least 100 non-members, half of the test data."
        )
    return tuple(found)


def broken_by(policy: Policy, trial: Trial) -> tuple[str, ...]:
    """Return a sentence for every threshold that a client with one more defense breaks."""
    return (
        *_recognisable(policy, [] if trial.inspection is None else [trial.inspection]),
        *_members(policy, trial.membership),
        *_epsilon(policy, trial.guarantees),
        *_accuracy(policy, trial.accuracy_loss),
    )


def best_membership(records: Sequence[MembershipRecord]) -> tuple[str, Interval] | None:
    """Return name and TPR at 1 % FPR of the membership attack that finds most; None where the data do not allow it."""
    rates = [(own.label, low.tpr) for own in records if own.summary for low in own.summary.low_fpr if low.fpr == _FPR]
    known = [(label, tpr) for label, tpr in rates if tpr is not None]
    return max(known, key=lambda own: own[1].value) if known else None


def ranked(record: AuditRecord) -> list[Trial]:
    """Return the defenses that were measured, the best first.

    Those that keep the policy come first, by what they cost; the others, and all without a policy, by what they let
    through. Last come those whose attack was ended by the clock.
    """

    def key(trial: Trial) -> tuple[float, ...]:
        breaks, share = len(broken_by(record.policy, trial)), _share(trial.inspection)
        lost = max(trial.accuracy_loss.value, 0.0) if trial.accuracy_loss else 1.0
        slowdown = trial.slowdown or 1.0
        if breaks or record.policy.is_empty:
            return breaks, share, lost, slowdown
        return breaks, lost, share, slowdown

    return sorted(_measured(record), key=lambda own: (not is_tested(own), *key(own)))


def recommended(record: AuditRecord) -> Trial | None:
    """Return the defense to use: it keeps the policy, or without one lets less through than no defense at all."""
    first = next((own for own in ranked(record) if is_tested(own)), None)
    if first is None or broken_by(record.policy, first):
        return None
    if record.policy.is_empty and _share(first.inspection) >= _share(record.control):
        return None
    return first


def is_tested(trial: Trial) -> bool:
    """Return whether the attack on a defense came to its end; one that the clock ended shows nothing about it."""
    found = trial.inspection
    return found is not None and not found.is_short and not any(victim.failure for victim in found.victims)


def sentence(record: AuditRecord) -> str:
    """Return the recommendation in words, with what it costs."""
    if record.inspections and all(own.is_unknown for own in record.inspections):
        if any(own.is_short for own in record.inspections):
            return "No attack came to a guess within the time, so nothing is known. Give the audit more minutes."
        return "No attack came to a guess, so nothing is known. The page says why each one failed."
    best = recommended(record)
    if best is None or control_failed(record):
        return _why_none(record)
    settings = ", ".join(f"{name} = {value}" for name, value in best.settings.items())
    return f"Recommended: {best.name}{f' ({settings})' if settings else ''}. {_cost(best)}"


def _why_none(record: AuditRecord) -> str:
    if record.plan.is_captured:
        return "A captured update cannot be defended afterwards: audit the factory without it to try defenses."
    if not record.plan.defend:
        return "No defense was tried, as asked for."
    if control_failed(record) and any(own.recovered for own in record.inspections):
        return (
            "No defense can be recommended: in the short time that each of them got, the attack did not succeed even "
            "without one. Give the audit more minutes."
        )
    if control_failed(record) and not broken(record):
        return "Nothing was recovered without further defenses, so there is none to recommend. That is no guarantee."
    closest = next(iter(ranked(record)), None)
    if closest is None or not is_tested(closest):
        return "No attack on a defense came to its end within the time. Give the audit more minutes."
    return (
        f"None of the {len(_measured(record))} defenses that were measured is enough. {closest.name} comes closest. "
        f"{_cost(closest)}"
    )


def _cost(trial: Trial) -> str:
    assert trial.inspection is not None
    assert trial.training is not None
    assert trial.accuracy_loss is not None
    lost = trial.accuracy_loss
    interval = ""
    if lost.low is not None and lost.high is not None:
        interval = f" ({100 * lost.low:+.1f} to {100 * lost.high:+.1f})"
    guarantee = "" if trial.guarantees else " No attack that failed is a guarantee."
    return (
        f"With it {100 * _share(trial.inspection):.0f} % of the images of batch {trial.inspection.batch_size} were "
        f"recovered; it costs {100 * lost.value:+.1f}{interval} points of test accuracy (n = {lost.n}) after "
        f"{trial.training.rounds} rounds, changes the test loss by {trial.loss_change or 0.0:+.3f}, and a round takes "
        f"{trial.training.seconds_a_round:.2g} s, {trial.slowdown or 1.0:.2g} times as long as without.{guarantee}"
    )


def _measured(record: AuditRecord) -> list[Trial]:
    return [own for own in record.trials if own.inspection is not None and own.training is not None]


def control_failed(record: AuditRecord) -> bool:
    """Return whether the client without further defenses withstood the attacks that the defenses were tried with."""
    return record.control is not None and not record.control.recovered


def _share(inspection: Inspection | None) -> float:
    return inspection.recovered or 0.0 if inspection is not None else 0.0


def _recognisable(policy: Policy, inspections: Sequence[Inspection]) -> Iterator[str]:
    limit = policy.max_recognisable
    for own in inspections:
        if limit is not None and own.recovered is not None and own.recovered > limit:
            yield (
                f"max_recognisable = {limit:g}, but {100 * own.recovered:.0f} % of the attacked images of batch "
                f"{own.batch_size} were recovered."
            )


def _members(policy: Policy, records: Sequence[MembershipRecord]) -> Iterator[str]:
    limit, best = policy.max_membership_tpr, best_membership(records)
    if limit is not None and best is not None and best[1].value > limit:
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
    if limit is not None and lost is not None and lost.value > limit:
        yield f"max_accuracy_loss = {limit:g}, but it costs {100 * lost.value:.1f} points of test accuracy."
