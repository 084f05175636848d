"""Verdict of a sweep: settings that keep the user's thresholds, the confidence, or why no answer is possible."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fedsim.judgement.limits import Case, Figure, JudgedLimit, LimitState, judge, worst
from fedsim.judgement.policy import Policy
from fedsim.judgement.ranking import Rank, rank
from fedsim.privacy.accounting import Spent
from fedsim.privacy.choosing import epsilon_of_all
from fedsim.record import GuaranteeRecord, Interval
from fedsim.report.document import Banner, Check, Statement
from fedsim.report.sweep.gathered import SweepRecords
from fedsim.report.sweep.points import Point
from fedsim.report.tables.figures import with_noun
from fedsim.report.verdict import CONTROL_SUCCEEDS, bounds, failed_on, with_bounds

_SHARES = {"max_recovered", "max_accuracy_loss", "max_membership_tpr"}  # limits in percent
_NOWHERE = "No setting protects."
_MORE = "the attacks that were tried recovered a part, another may recover more"


@dataclass(frozen=True)
class JudgedSetting:
    """A setting with the states of all limits of the policy."""

    point: Point
    limits: tuple[JudgedLimit, ...]

    @property
    def state(self) -> LimitState:
        """The state of the limits together."""
        return worst(limit.state for limit in self.limits)

    @property
    def broken(self) -> tuple[JudgedLimit, ...]:
        """The limits that are broken."""
        return tuple(limit for limit in self.limits if limit.state == "broken")

    @property
    def unmeasured_limits(self) -> tuple[JudgedLimit, ...]:
        """The limits without a measurement."""
        return tuple(limit for limit in self.limits if limit.figure.value is None)

    @property
    def checks(self) -> tuple[Check, ...]:
        """The limits as rows of the page."""
        return tuple(_check(limit, self.point) for limit in self.limits)


def judge_setting(point: Point, policy: Policy) -> JudgedSetting:
    """Judge a setting by every limit of the policy."""
    return JudgedSetting(point, tuple(judge(policy, _case(point))))


def verdicts(sweep: SweepRecords, points: Sequence[Point]) -> list[Statement]:
    """Return a verdict per threat model; it has a level only if the user stated thresholds."""
    threats = dict.fromkeys(point.setting.threat for point in points)
    by_threat = {threat: [p for p in points if p.setting.threat == threat] for threat in threats}
    can_judge = not any(banner.level == "alarm" for banner in banners(sweep, points))
    return [_verdict(f"Under {threat}", alike, sweep.policy, can_judge) for threat, alike in by_threat.items()]


def banners(sweep: SweepRecords, points: Sequence[Point]) -> list[Banner]:
    """Return the warnings a reader must see first."""
    return [*_control_banners(points), *_missing_run_banners(sweep)]


def sentence(point: Point) -> str:
    """Return a setting's cost and the strongest attack's success rate, in words."""
    parts = [_cost(point)]
    if point.strongest:
        rate, setting = point.strongest.rate, point.setting.recovered_noun
        victims = point.setting.victims(point.strongest.attack)
        failed = failed_on(sum(v.share is None for v in victims), len(victims))
        parts.append(
            f"leaves {_percent(rate)} of the {setting} to {point.strongest.attack} "
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
    metric, loss = point.setting.test_metric, point.loss
    if metric is None:
        return ""
    value, digits = metric.scale * loss.value, metric.digits
    margin = "" if loss.high is None else f" +/- {metric.scale * (loss.high - loss.value):.{digits}f}"
    unit = " points" if metric.suffix == "%" else metric.suffix
    verb = "loses" if value >= 0 else "gains"
    return f"{verb} {abs(value):.{digits}f}{margin}{unit} of {metric.title} ({with_noun(loss.n, 'seed')})"


def _percent(rate: Interval) -> str:
    return f"{100 * rate.value:.{0 if rate.value in (0.0, 1.0) else 1}f}%"


def _case(point: Point) -> Case:
    loss = Interval(value=0, low=0, high=0, n=1) if point.setting.is_undefended and point.utility else point.loss
    return Case(
        recognisable=[_recovery_figure(point)],
        accuracy_loss=Figure("accuracy", loss),
        members=[Figure(risk.attack, risk.rate) for risk in point.members],
        findings={name: [Figure(name, value)] for name, value in point.figures.items()},
        guarantees=[point.guarantee] if point.guarantee else [],
    )


def _recovery_figure(point: Point) -> Figure:
    if point.strongest is None:
        return Figure("", None, missing_reason="every attack failed" if point.has_failed else "")
    doubts = ("no search converged on some victims",) if point.unproved_victims else ()
    return Figure(point.strongest.attack, point.strongest.rate, doubts=doubts)


def _check(judged: JudgedLimit, point: Point) -> Check:
    """Return the row of a limit: its figure, the limit, and its state."""
    value, title = judged.figure.value, _title(judged.rule, point)
    limit = f"{100 * judged.limit:g}%" if judged.rule in _SHARES else f"{judged.limit:g}"
    if judged.rule == "max_epsilon":
        return Check(title, _epsilon(point), limit, judged.state)
    if value is None:
        return Check(title, judged.figure.missing_reason or "nothing", limit, "not measured")
    shown = f"{100 * value.value:.1f}%" if judged.rule in _SHARES else f"{value.value:.3g}"
    interval = bounds(value, 100, 1) if judged.rule in _SHARES else bounds(value, 1, 2)
    return Check(title, with_bounds(shown, interval), limit, judged.state)


def _title(rule: str, point: Point) -> str:
    titles = {
        "max_recovered": point.setting.recovered_noun,
        "max_accuracy_loss": f"{point.setting.measure or 'utility'} loss",
        "max_membership_tpr": "members found at 1% false alarms",
        "max_epsilon": "epsilon",
    }
    return titles.get(rule, rule)


def _epsilon(point: Point) -> str:
    stated = f"{point.epsilon:.3g}" if math.isfinite(point.epsilon) else "no guarantee"
    is_trusting = point.guarantee is not None and not point.guarantee.holds_against_server
    return f"{stated}, not against the server" if is_trusting else stated


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
    judged = sorted((judge_setting(point, policy) for point in points), key=_rank)
    unbroken, best = [setting for setting in judged if not setting.broken], judged[0]
    if not unbroken:
        nearest, checks = best, [_check(limit, best.point) for limit in best.broken]
        misses = "; ".join(f"{check.name} {check.measured_value}, allowed {check.limit}" for check in checks)
        text = f" {nearest.point.name} comes nearest, and misses: {misses}. It {sentence(nearest.point)}"
        return Statement(subject, "No setting keeps every threshold.", "broken", after=text, checks=nearest.checks)
    if _protects_nowhere(points):
        text = (
            f" {_all_left(points)} The stated thresholds do not limit that share, and {len(unbroken)} of {len(judged)} "
        )
        return Statement(subject, _NOWHERE, after=f"{text}settings break none.", checks=best.checks)
    also = [point.point.name for point in unbroken if point is not best and point.state == "kept"]
    ending = f" Within the thresholds as well: {_shorten_names(also)}." if also else ""
    verb, doubt = ("keeps", "") if best.state == "kept" else ("may keep", _missing_evidence(best))
    return Statement(
        subject,
        f"{best.point.name} {verb} every threshold.",
        best.state,
        after=f" It {sentence(best.point)}{doubt}{ending}",
        caveat=_caveat(best.point, points),
        checks=best.checks,
    )


def _protects_nowhere(points: Sequence[Point]) -> bool:
    """Return whether an attack recovers everything under every setting, so that no setting is better than another."""
    return all(point.strongest is not None and point.strongest.rate.value == 1.0 for point in points)


def _all_left(points: Sequence[Point]) -> str:
    """Return the sentence for settings under which every example is recovered, with the widest interval."""
    rate, setting = min(
        ((point.strongest.rate, point.setting.recovered_noun) for point in points if point.strongest),
        key=lambda pair: pair[0].n,
    )
    alike = "The only setting" if len(points) == 1 else f"Each of {len(points)} settings"
    return f"{alike} leaves 100% of the {setting} (95% interval {bounds(rate, 100, 0)}%, {rate.n} updates)."


def _rank(judged: JudgedSetting) -> Rank:
    point = judged.point
    return rank(judged.state, judged.limits, cost=(-_utility(point),), risk=_risk(point))


def _missing_evidence(judged: JudgedSetting) -> str:
    """Return sentences on the additional evidence that would decide."""
    if judged.unmeasured_limits:
        titles = ", ".join(_title(limit.rule, judged.point) for limit in judged.unmeasured_limits)
        return f" Not measured: {titles}. Add attacks that measure it."
    if number := judged.point.unproved_victims:
        return (
            f" On {number} victim{'s' * (number > 1)} no search converged: none explained the update as well as the "
            "truth does, so longer searches may recover more."
        )
    return " Its intervals include a threshold: add seeds or victims to decide."


def _shorten_names(names: Sequence[str], limit: int = 6) -> str:
    shown = "; ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown}; and {len(names) - limit} more"


def _caveat(point: Point, points: Sequence[Point]) -> str:
    if point.guarantee is None or not math.isfinite(point.epsilon):
        if _risk(point) == 1.0:
            return ""
        failed = _risk(point) == 0.0
        return f"Not a guarantee: {'the attacks that were tried failed, another may succeed' if failed else _MORE}."
    stated = point.guarantee
    caveat = "" if stated.holds_against_server else " It does not hold against the server, which is trusted here."
    price = _choice_sentence(stated, points)
    return f"Guaranteed: {stated.figure} for {stated.neighbours}, against {stated.adversary}.{caveat}{price}"


def _choice_sentence(stated: GuaranteeRecord, points: Sequence[Point]) -> str:
    """Return a sentence on the epsilon of choosing among all private runs on the same data."""
    cells = (cell for point in points for cell in point.setting.cells)
    guarantees = [guarantee for cell in cells for guarantee in cell.guarantees if guarantee.unit == stated.unit]
    if len(guarantees) < 2:  # noqa: PLR2004 - nothing was chosen
        return ""
    spent = [[Spent(guarantee.noise_multiplier, guarantee.sampling_rate, guarantee.steps)] for guarantee in guarantees]
    return (
        f" That is the epsilon of a single run. Choosing among {len(guarantees)} private runs on the "
        f"same data costs epsilon {epsilon_of_all(spent, stated.delta):.3g}, since all runs of "
        "the known number count."
    )


def _risk(point: Point) -> float:
    attack = point.strongest or point.membership
    return attack.rate.value if attack else 1.0


def _utility(point: Point) -> float:
    return point.gain.value if point.gain else 0.0


def _control_banners(points: Sequence[Point]) -> Iterator[Banner]:
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


def _missing_run_banners(sweep: SweepRecords) -> Iterator[Banner]:
    if not sweep.settings:
        yield Banner(
            "caution",
            "This sweep is empty",
            f"None of its {sweep.planned_runs} runs has a usable record; the list below says why.",
        )
    elif sweep.problems:
        yield Banner(
            "caution",
            f"{len(sweep.problems)} of {sweep.planned_runs} runs are missing",
            "They are left out of every number; the list at the end says why.",
        )
