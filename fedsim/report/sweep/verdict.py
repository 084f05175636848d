"""What the sweep answers: which setting keeps the user's own thresholds, how surely, and when nothing can be said."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from fedsim.document import Banner
from fedsim.metrics.evidence import held
from fedsim.record import Interval
from fedsim.record.policy import Policy
from fedsim.report.sweep.gathered import Sweep
from fedsim.report.sweep.points import Point
from fedsim.report.verdict import CONTROL_SUCCEEDS, bounds, failed_on

Light = Literal["kept", "undecided", "broken", "not measured"]


class Check(NamedTuple):
    """One threshold against one setting; `excess` is by how much it is broken, relative to the threshold."""

    what: str
    measured: str
    limit: str
    light: Light
    excess: float = 0.0


@dataclass(frozen=True)
class Judgement:
    """One setting against the whole policy."""

    point: Point
    checks: tuple[Check, ...]

    @property
    def broken(self) -> tuple[Check, ...]:
        """The thresholds that are not kept, or that nothing was measured for."""
        return tuple(check for check in self.checks if check.light in ("broken", "not measured"))

    @property
    def is_sure(self) -> bool:
        """Whether every interval ends within its threshold, with evidence."""
        return all(check.light == "kept" for check in self.checks)


@dataclass(frozen=True)
class Verdict:
    """The answer for one threat model. `light` colours it only where the user stated thresholds."""

    threat: str
    light: Literal["none", "kept", "undecided", "broken"]
    finding: str
    text: str
    caveat: str
    checks: tuple[Check, ...]


def judge(point: Point, policy: Policy) -> Judgement:
    """Hold one setting to every threshold that is stated."""
    return Judgement(point, tuple(_checks(point, policy)))


def verdicts(sweep: Sweep, points: Sequence[Point]) -> list[Verdict]:
    """Return one verdict a threat model."""
    threats = dict.fromkeys(point.setting.threat for point in points)
    by_threat = {threat: [p for p in points if p.setting.threat == threat] for threat in threats}
    can_judge = not any(banner.level == "alarm" for banner in banners(sweep, points))
    return [_verdict(threat, own, sweep.policy, can_judge) for threat, own in by_threat.items()]


def banners(sweep: Sweep, points: Sequence[Point]) -> list[Banner]:
    """Return the warnings a reader must see first."""
    return [*_about_controls(points), *_about_missing(sweep)]


def sentence(point: Point) -> str:
    """Return what a setting costs and what it leaves, in words."""
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
        label, rate = point.membership
        parts.append(f"lets {label} find {_percent(rate)} of the members at 1% false alarms ({bounds(rate, 100, 1)}%)")
    return f"{' and '.join(filter(None, parts)) or 'was not measured'}."


def _cost(point: Point) -> str:
    if point.loss is None:
        return "" if point.utility is None else f"reaches {point.told}"
    own, loss = point.setting.measured, point.loss
    if own is None:
        return ""
    value = own.scale * loss.value
    margin = "" if loss.high is None else f" +/- {own.scale * (loss.high - loss.value):.{own.digits}f}"
    seeds = f"{loss.n} seed{'s' if loss.n > 1 else ''}"
    points = " points" if own.suffix == "%" else own.suffix
    return f"{'loses' if value >= 0 else 'gains'} {abs(value):.{own.digits}f}{margin}{points} of {own.title} ({seeds})"


def _percent(rate: Interval) -> str:
    return f"{100 * rate.value:.{0 if rate.value in (0.0, 1.0) else 1}f}%"


def _checks(point: Point, policy: Policy) -> Iterator[Check]:
    if policy.max_recognisable is not None:
        what = point.setting.what
        rate = point.strongest.rate if point.strongest else None
        is_evidence, without = not point.unproved, "every attack failed" if point.has_failed else "nothing"
        yield _check(what, rate, policy.max_recognisable, is_evidence=is_evidence, without=without)
    if policy.max_accuracy_loss is not None:
        loss = Interval(value=0, low=0, high=0, n=1) if point.setting.is_undefended and point.utility else point.loss
        yield _check(f"{point.setting.measure or 'utility'} loss", loss, policy.max_accuracy_loss)
    if policy.max_membership_tpr is not None:
        found = point.membership[1] if point.membership else None
        yield _check("members found at 1% false alarms", found, policy.max_membership_tpr)
    for name, limit in policy.findings.items():
        yield _check_figure(name, point.figures.get(name), limit)
    if policy.max_epsilon is not None:
        is_kept = point.epsilon <= policy.max_epsilon
        told = f"{point.epsilon:.3g}" if math.isfinite(point.epsilon) else "no guarantee"
        excess = 0.0 if is_kept else min(point.epsilon / policy.max_epsilon, 1e6)
        yield Check("epsilon", told, f"{policy.max_epsilon:g}", "kept" if is_kept else "broken", excess)


def _check(
    what: str, measured: Interval | None, limit: float, *, is_evidence: bool = True, without: str = "nothing"
) -> Check:
    told = f"{100 * limit:g}%"
    if measured is None:
        return Check(what, without, told, "not measured", math.inf)
    value = f"{100 * measured.value:.1f}%"
    value += f" ({interval})" if (interval := bounds(measured, 100, 1)) else ""
    light = held(measured, limit, is_evidence=is_evidence)
    return Check(what, value, told, light, max(0.0, measured.value - limit) / max(limit, 0.01))


def _check_figure(name: str, measured: Interval | None, limit: float) -> Check:
    """Hold the largest figure of this metric that an attack reached to its limit."""
    if measured is None:
        return Check(name, "nothing", f"{limit:g}", "not measured", math.inf)
    interval = bounds(measured, 1, 2)
    value = f"{measured.value:.3g}{f' ({interval})' if interval else ''}"
    excess = max(0.0, measured.value - limit) / max(abs(limit), 0.01)
    return Check(name, value, f"{limit:g}", held(measured, limit), excess)


def _verdict(threat: str, points: Sequence[Point], policy: Policy, can_judge: bool) -> Verdict:
    if not can_judge:
        text = "The undefended control failed, so a failed attack on a defended client means nothing."
        return Verdict(threat, "none", "Nothing can be judged", text, "", ())
    if policy.is_empty:
        least = min(points, key=lambda p: (_risk(p), -_utility(p)))
        text = f"Least was recovered under {least.name}: it {sentence(least)}"
        return Verdict(threat, "none", "No thresholds are stated, so nothing is judged", text, _caveat(least), ())
    judged = [judge(point, policy) for point in points]
    within = [own for own in judged if not own.broken]
    if not within:
        near = min(judged, key=lambda own: (len(own.broken), sum(check.excess for check in own.broken)))
        misses = "; ".join(f"{c.what} {c.measured}, allowed {c.limit}" for c in near.broken)
        text = f"{near.point.name} comes nearest, and misses: {misses}. It {sentence(near.point)}"
        return Verdict(threat, "broken", "No setting keeps every threshold", text, "", near.checks)
    best = min(within, key=_first)
    also = [own.point.name for own in within if own is not best and own.is_sure]
    rest = f" Within the thresholds as well: {_some(also)}." if also else ""
    if best.is_sure:
        text = f"It {sentence(best.point)}{rest}"
        return Verdict(
            threat, "kept", f"{best.point.name} keeps every threshold", text, _caveat(best.point), best.checks
        )
    text = f"It {sentence(best.point)} {_missing(best)}{rest}"
    finding = f"{best.point.name} may keep every threshold"
    return Verdict(threat, "undecided", finding, text, _caveat(best.point), best.checks)


def _first(own: Judgement) -> tuple[float, ...]:
    """Return the order of settings that break no threshold."""
    return not own.is_sure, sum(check.excess for check in own.checks), -_utility(own.point), _risk(own.point)


def _missing(own: Judgement) -> str:
    """Return what would decide."""
    if own.point.unproved:
        return (
            f"On {own.point.unproved} victims no search converged: none explained the update as well as the truth "
            "does, so longer searches may recover more."
        )
    return "Its intervals reach across a threshold: more seeds or victims would tell."


def _some(names: Sequence[str], most: int = 6) -> str:
    shown = "; ".join(names[:most])
    return shown if len(names) <= most else f"{shown}; and {len(names) - most} more"


def _caveat(point: Point) -> str:
    if point.guarantee is None or not math.isfinite(point.epsilon):
        return "Not a guarantee: the attacks that were tried failed, another may succeed."
    own = point.guarantee
    whom = "" if own.holds_against_server else " It does not hold against the server, which is trusted here."
    return f"Guaranteed: {own.figure} for {own.neighbours}, against {own.against}.{whom}"


def _risk(point: Point) -> float:
    if point.strongest:
        return point.strongest.rate.value
    return point.membership[1].value if point.membership else 1.0


def _utility(point: Point) -> float:
    return point.gain.value if point.gain else 0.0


def _about_controls(points: Sequence[Point]) -> Iterator[Banner]:
    attacked = [point for point in points if point.strongest or point.membership]
    controls = [point for point in attacked if point.setting.is_undefended]
    if attacked and not controls:
        yield Banner(
            "caution",
            "No undefended control was run",
            "Every setting is protected in some way, so an attack that fails cannot be told from one that is weak, and "
            "no loss of utility can be stated. Add a setting without defense, component and dropout.",
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
    return point.membership is not None and (point.membership[1].low or 0.0) > 0.01  # noqa: PLR2004 - the false alarms


def _about_missing(sweep: Sweep) -> Iterator[Banner]:
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
