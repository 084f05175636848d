"""Verdict of a sweep: settings that keep the user's thresholds, the confidence, or why no answer is possible."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fedsim.judgement.limits import held
from fedsim.judgement.policy import Policy
from fedsim.privacy.accounting import Spent
from fedsim.privacy.choosing import epsilon_of_all
from fedsim.record import GuaranteeRecord, Interval
from fedsim.report.document import Banner, Check, Statement
from fedsim.report.sweep.gathered import SweepRecords
from fedsim.report.sweep.points import Point
from fedsim.report.tables.figures import with_noun
from fedsim.report.verdict import CONTROL_SUCCEEDS, bounds, failed_on, with_bounds

_NOWHERE = "No setting protects."
_MORE = "the attacks that were tried recovered a part, another may recover more"


class RankedThreshold(NamedTuple):
    """A threshold applied to a setting; `excess` is the relative amount by which it is exceeded."""

    check: Check
    excess: float


@dataclass(frozen=True)
class Judgement:
    """A setting judged by the whole policy."""

    point: Point
    thresholds: tuple[RankedThreshold, ...]

    @property
    def checks(self) -> tuple[Check, ...]:
        """The thresholds, for people."""
        return tuple(threshold.check for threshold in self.thresholds)

    @property
    def broken(self) -> tuple[Check, ...]:
        """The thresholds that are not kept, or that nothing was measured for."""
        return tuple(check for check in self.checks if check.level in ("broken", "not measured"))

    @property
    def excess(self) -> float:
        """By how much thresholds are broken, in all."""
        return sum(threshold.excess for threshold in self.thresholds)

    @property
    def is_sure(self) -> bool:
        """Whether every interval ends within its threshold, with evidence."""
        return all(check.level == "kept" for check in self.checks)


def judge(point: Point, policy: Policy) -> Judgement:
    """Judge a setting by every stated threshold."""
    return Judgement(point, tuple(_thresholds(point, policy)))


def verdicts(sweep: SweepRecords, points: Sequence[Point]) -> list[Statement]:
    """Return a verdict per threat model; it has a level only if the user stated thresholds."""
    threats = dict.fromkeys(point.setting.threat for point in points)
    by_threat = {threat: [p for p in points if p.setting.threat == threat] for threat in threats}
    can_judge = not any(banner.level == "alarm" for banner in banners(sweep, points))
    return [_verdict(f"Under {threat}", alike, sweep.policy, can_judge) for threat, alike in by_threat.items()]


def banners(sweep: SweepRecords, points: Sequence[Point]) -> list[Banner]:
    """Return the warnings a reader must see first."""
    return [*_about_controls(points), *_about_missing(sweep)]


def sentence(point: Point) -> str:
    """Return a setting's cost and the strongest attack's success rate, in words."""
    parts = [_cost(point)]
    if point.strongest:
        rate, what = point.strongest.rate, point.setting.what
        victims = point.setting.victims(point.strongest.attack)
        failed = failed_on(sum(v.share is None for v in victims), len(victims))
        parts.append(
            f"leaves {_percent(rate)} of the {what} to {point.strongest.attack} "
            f"(95% interval {bounds(rate, 100, 0)}%, {rate.n} updates{f', {failed}' if failed else ''})"
        )
    elif point.has_failed:
        parts.append("was attacked in vain, since every attack failed")
    if point.membership:
        label, rate = point.membership.attack, point.membership.rate
        parts.append(f"lets {label} find {_percent(rate)} of the members at 1% false alarms ({bounds(rate, 100, 1)}%)")
    return f"{' and '.join(filter(None, parts)) or 'was not measured'}."


def _cost(point: Point) -> str:
    if point.loss is None:
        return "" if point.utility is None else f"reaches {point.utility_in_words}"
    metric, loss = point.setting.measured, point.loss
    if metric is None:
        return ""
    value, digits = metric.scale * loss.value, metric.digits
    margin = "" if loss.high is None else f" +/- {metric.scale * (loss.high - loss.value):.{digits}f}"
    unit = " points" if metric.suffix == "%" else metric.suffix
    verb = "loses" if value >= 0 else "gains"
    return f"{verb} {abs(value):.{digits}f}{margin}{unit} of {metric.title} ({with_noun(loss.n, 'seed')})"


def _percent(rate: Interval) -> str:
    return f"{100 * rate.value:.{0 if rate.value in (0.0, 1.0) else 1}f}%"


def _thresholds(point: Point, policy: Policy) -> Iterator[RankedThreshold]:
    if policy.max_recovered is not None:
        what = point.setting.what
        rate = point.strongest.rate if point.strongest else None
        is_evidence, without = not point.unproved, "every attack failed" if point.has_failed else "nothing"
        yield _judge_share(what, rate, policy.max_recovered, is_evidence=is_evidence, without=without)
    if policy.max_accuracy_loss is not None:
        loss = Interval(value=0, low=0, high=0, n=1) if point.setting.is_undefended and point.utility else point.loss
        yield _judge_share(f"{point.setting.measure or 'utility'} loss", loss, policy.max_accuracy_loss)
    if policy.max_membership_tpr is not None:
        yield _judge_members(point, policy.max_membership_tpr)
    for name, limit in policy.findings.items():
        yield _judge_figure(name, point.figures.get(name), limit)
    if policy.max_epsilon is not None:
        is_kept = point.epsilon_against_server <= policy.max_epsilon
        stated = f"{point.epsilon:.3g}" if math.isfinite(point.epsilon) else "no guarantee"
        if point.guarantee and not point.guarantee.holds_against_server:
            stated = f"{stated}, not against the server"
        excess = 0.0 if is_kept else min(point.epsilon_against_server / policy.max_epsilon, 1e6)
        check = Check("epsilon", stated, f"{policy.max_epsilon:g}", "kept" if is_kept else "broken")
        yield RankedThreshold(check, excess)


def _judge_share(
    what: str, measured: Interval | None, limit: float, *, is_evidence: bool = True, without: str = "nothing"
) -> RankedThreshold:
    allowed = f"{100 * limit:g}%"
    if measured is None:
        return RankedThreshold(Check(what, without, allowed, "not measured"), math.inf)
    value = with_bounds(f"{100 * measured.value:.1f}%", bounds(measured, 100, 1))
    check = Check(what, value, allowed, held(measured, limit, is_evidence=is_evidence))
    return RankedThreshold(check, _excess(measured, limit))


def _judge_members(point: Point, limit: float) -> RankedThreshold:
    """Judge every membership attack by the limit, and return the worst state: broken, then undecided, then kept."""
    what = "members found at 1% false alarms"
    judged = [_judge_share(what, risk.rate, limit) for risk in point.members]
    if not judged:
        return _judge_share(what, None, limit)
    severity = ("kept", "undecided", "broken")
    return max(judged, key=lambda one: (severity.index(one.check.level), one.excess))


def _judge_figure(name: str, measured: Interval | None, limit: float) -> RankedThreshold:
    """Judge the largest figure of this metric by its limit."""
    if measured is None:
        return RankedThreshold(Check(name, "nothing", f"{limit:g}", "not measured"), math.inf)
    value = with_bounds(f"{measured.value:.3g}", bounds(measured, 1, 2))
    return RankedThreshold(Check(name, value, f"{limit:g}", held(measured, limit)), _excess(measured, limit))


def _excess(measured: Interval, limit: float) -> float:
    return max(0.0, measured.value - limit) / max(abs(limit), 0.01)


def _verdict(subject: str, points: Sequence[Point], policy: Policy, can_judge: bool) -> Statement:
    if not can_judge:
        text = " The undefended control failed, so a failed attack on a defended client means nothing."
        return Statement(subject, "Nothing can be judged.", after=text)
    if policy.is_empty and _protects_nowhere(points):
        return Statement(subject, _NOWHERE, after=f" {_all_left(points)} No thresholds are stated.")
    if policy.is_empty:
        least = min(points, key=lambda p: (_risk(p), -_utility(p)))
        text = f" Least was recovered under {least.name}: it {sentence(least)}"
        strong = "No thresholds are stated, so nothing is judged."
        return Statement(subject, strong, after=text, caveat=_caveat(least, points))
    judged = [judge(point, policy) for point in points]
    within = [one for one in judged if not one.broken]
    if not within:
        near = min(judged, key=lambda one: (len(one.broken), one.excess))
        misses = "; ".join(f"{c.what} {c.measured}, allowed {c.limit}" for c in near.broken)
        text = f" {near.point.name} comes nearest, and misses: {misses}. It {sentence(near.point)}"
        return Statement(subject, "No setting keeps every threshold.", "broken", after=text, checks=near.checks)
    best = min(within, key=_first)
    if _protects_nowhere(points):
        text = (
            f" {_all_left(points)} The stated thresholds do not limit that share, and {len(within)} of {len(judged)} "
        )
        return Statement(subject, _NOWHERE, after=f"{text}settings break none.", checks=best.checks)
    also = [one.point.name for one in within if one is not best and one.is_sure]
    rest = f" Within the thresholds as well: {_some(also)}." if also else ""
    verb, level, doubt = ("keeps", "kept", "") if best.is_sure else ("may keep", "undecided", _missing(best))
    return Statement(
        subject,
        f"{best.point.name} {verb} every threshold.",
        level,
        after=f" It {sentence(best.point)}{doubt}{rest}",
        caveat=_caveat(best.point, points),
        checks=best.checks,
    )


def _protects_nowhere(points: Sequence[Point]) -> bool:
    """Return whether an attack recovers everything under every setting, so that no setting is better than another."""
    return all(point.strongest is not None and point.strongest.rate.value == 1.0 for point in points)


def _all_left(points: Sequence[Point]) -> str:
    """Return the sentence for settings under which every example is recovered, with the widest interval."""
    rate, what = min(
        ((point.strongest.rate, point.setting.what) for point in points if point.strongest), key=lambda one: one[0].n
    )
    alike = "The only setting" if len(points) == 1 else f"Each of {len(points)} settings"
    return f"{alike} leaves 100% of the {what} (95% interval {bounds(rate, 100, 0)}%, {rate.n} updates)."


def _first(judged: Judgement) -> tuple[float, ...]:
    """Return the sort key of settings that break no threshold."""
    return not judged.is_sure, judged.excess, -_utility(judged.point), _risk(judged.point)


def _missing(judged: Judgement) -> str:
    """Return a sentence on the additional evidence that would decide; empty if not needed."""
    if number := judged.point.unproved:
        return (
            f" On {number} victim{'s' * (number > 1)} no search converged: none explained the update as well as the "
            "truth does, so longer searches may recover more."
        )
    return " Its intervals include a threshold: add seeds or victims to decide."


def _some(names: Sequence[str], most: int = 6) -> str:
    shown = "; ".join(names[:most])
    return shown if len(names) <= most else f"{shown}; and {len(names) - most} more"


def _caveat(point: Point, points: Sequence[Point]) -> str:
    if point.guarantee is None or not math.isfinite(point.epsilon):
        if _risk(point) == 1.0:
            return ""
        failed = _risk(point) == 0.0
        return f"Not a guarantee: {'the attacks that were tried failed, another may succeed' if failed else _MORE}."
    stated = point.guarantee
    whom = "" if stated.holds_against_server else " It does not hold against the server, which is trusted here."
    price = _of_choice(stated, points)
    return f"Guaranteed: {stated.figure} for {stated.neighbours}, against {stated.adversary}.{whom}{price}"


def _of_choice(stated: GuaranteeRecord, points: Sequence[Point]) -> str:
    """Return a sentence on the epsilon of choosing among all private runs on the same data."""
    cells = (cell for point in points for cell in point.setting.cells)
    every = [one for cell in cells for one in cell.guarantees if one.unit == stated.unit]
    if len(every) < 2:  # noqa: PLR2004 - nothing was chosen
        return ""
    spent = [[Spent(one.noise_multiplier, one.sampling_rate, one.steps)] for one in every]
    return (
        f" That is the epsilon of a single run. Choosing among {len(every)} private runs on the "
        f"same data costs epsilon {epsilon_of_all(spent, stated.delta):.3g}, since all runs of "
        "the known number count."
    )


def _risk(point: Point) -> float:
    attack = point.strongest or point.membership
    return attack.rate.value if attack else 1.0


def _utility(point: Point) -> float:
    return point.gain.value if point.gain else 0.0


def _about_controls(points: Sequence[Point]) -> Iterator[Banner]:
    attacked = [point for point in points if point.strongest or point.membership]
    controls = [point for point in attacked if point.setting.is_undefended]
    if attacked and not controls:
        yield Banner(
            "caution",
            "No undefended control was run",
            "Every setting has some protection, so a failed attack may be a weak attack, and "
            "the loss of utility is unknown. Add a setting without defense, component and "
            "dropout.",
        )
    elif attacked and not any(_succeeds(point) for point in controls):
        tried = "; ".join(f"{point.name}: it {sentence(point)}" for point in controls)
        yield Banner(
            "alarm",
            "This report shows nothing about privacy",
            f"The undefended control must be broken, and was not ({tried}). The attacks may fail because they are weak "
            "or wrongly set, not because the clients are protected.",
        )


def _succeeds(point: Point) -> bool:
    if point.strongest and point.strongest.rate.value >= CONTROL_SUCCEEDS:
        return True
    return point.membership is not None and (point.membership.rate.low or 0.0) > 0.01  # noqa: PLR2004 - the false alarms


def _about_missing(sweep: SweepRecords) -> Iterator[Banner]:
    if not sweep.settings:
        yield Banner(
            "caution",
            "This sweep is empty",
            f"None of its {sweep.planned} runs has a usable record; the list below says why.",
        )
    elif sweep.problems:
        yield Banner(
            "caution",
            f"{len(sweep.problems)} of {sweep.planned} runs are missing",
            "They are left out of every number; the list at the end says why.",
        )
