"""Sentences about limits of a policy, the same for audits and release checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from fedsim.core import registry
from fedsim.judgement.limits import JudgedLimit, exit_code, judge_limit
from fedsim.judgement.policy import Policy
from fedsim.record import Interval
from fedsim.report.verdict import bounds, with_bounds


class PolicyOutcome(NamedTuple):
    """Outcome of a policy: a sentence for each limit that is broken or undecided, and the exit code."""

    sentences: tuple[str, ...]
    exit_code: int


def sentence(judged: JudgedLimit) -> str:
    """Return why a limit is broken or undecided, as a sentence; empty where it is kept."""
    if judged.state == "broken":
        return f"{_broken(judged)}."
    return f"Undecided: {_undecided_reason(judged)}." if judged.state == "undecided" else ""


def policy_outcome(policy: Policy, limits: Sequence[JudgedLimit]) -> PolicyOutcome:
    """Return the outcome of a policy's limits; limits open for the same reason share a sentence."""
    open_limits = [limit for limit in limits if limit.state != "kept"]
    said = (f"The policy is {limit.state}: {sentence(limit).removeprefix('Undecided: ')}" for limit in open_limits)
    return PolicyOutcome(tuple(dict.fromkeys(said)), exit_code(policy, (limit.state for limit in open_limits)))


def reasons(judged: JudgedLimit) -> tuple[str, ...]:
    """Return why a limit is undecided, as sentences without full stop; empty where it is decided."""
    if judged.state != "undecided":
        return ()
    figure = judged.figure
    if judged.rule == "max_recovered" and not figure.missing_reason:
        return (*figure.doubts, *_open_share(judged))
    return (_undecided_reason(judged),)


def share_in_words(share: Interval | None) -> str:
    """Return a share in percent with its interval."""
    return "an unknown share" if share is None else with_bounds(f"{100 * share.value:.0f} %", bounds(share, 100, 0))


def value_in_words(name: str, value: Interval) -> str:
    """Return a metric's title, and a value of it with its interval."""
    metric = registry.every_metric()[name]
    shown = f"{metric.scale * value.value:.{metric.digits}f}"
    return f"{metric.title} {with_bounds(shown, bounds(value, metric.scale, metric.digits))}{metric.suffix}"


def _undecided_reason(judged: JudgedLimit) -> str:
    figure = judged.figure
    if figure.missing_reason:
        return figure.missing_reason
    if figure.invalid:
        return f"{figure.label} is invalid, since {figure.invalid}"
    if judged.rule == "max_recovered":
        return f"{judged.rule} on {judged.where}, since {'; '.join(reasons(judged))}"
    if figure.value is None:
        return f"{judged.rule} was not measured"
    return _OPEN.get(judged.rule, _finding)(judged, figure.value)


def _broken(judged: JudgedLimit) -> str:
    assert judged.figure.value is not None, "without a value a limit is undecided"
    return _BROKEN.get(judged.rule, _finding)(judged, judged.figure.value)


def _open_share(judged: JudgedLimit) -> Iterator[str]:
    """Yield the range that the number of updates leaves open, if the interval alone does not decide."""
    share, limit, advice = judged.figure.value, judged.limit, judged.figure.advice
    if share is not None and judge_limit(share, limit) == "undecided":
        least, highest = 100 * (share.low or 0.0), 100 if share.high is None else 100 * share.high
        said = f"n = {share.n} leaves {least:.0f} to {highest:.0f} % open and the limit is {100 * limit:g} %"
        yield f"{said}: {advice}" if advice else said


def _finding(judged: JudgedLimit, value: Interval) -> str:
    said = f"{judged.figure.label}, {value_in_words(judged.rule, value)}"
    return f"{said}, n = {value.n}, and the limit is {judged.limit:g}"


def _open_members(judged: JudgedLimit, value: Interval) -> str:
    highest = 100 if value.high is None else 100 * value.high
    return (
        f"{judged.figure.label} may find up to {highest:.0f} % of the members, "
        f"and the limit is {100 * judged.limit:g} %"
    )


def _open_accuracy(judged: JudgedLimit, value: Interval) -> str:
    if value.high is None:
        return "its cost has no interval"
    price = f"it may cost up to {100 * value.high:.1f} points of test accuracy"
    return f"{price}, and the limit is {100 * judged.limit:g} points"


def _broken_share(judged: JudgedLimit, value: Interval) -> str:
    share, figure = share_in_words(value), judged.figure
    return f"{_limit(judged)} {share} of the attacked examples of {judged.where} were {figure.word}"


def _broken_accuracy(judged: JudgedLimit, value: Interval) -> str:
    return f"{_limit(judged)} it costs {100 * value.value:.1f} points of test accuracy"


def _broken_members(judged: JudgedLimit, value: Interval) -> str:
    found = f"{judged.figure.label} finds {100 * value.value:.0f} % of the members"
    return f"{_limit(judged)} {found} at 1 % false positives"


def _broken_epsilon(judged: JudgedLimit, value: Interval) -> str:
    return f"{_limit(judged)} {judged.figure.missing_reason or f'the weakest guarantee is epsilon {value.value:.3g}'}"


def _limit(judged: JudgedLimit) -> str:
    return f"{judged.rule} = {judged.limit:g}, but"


_Words = Mapping[str, Callable[[JudgedLimit, Interval], str]]
_OPEN: _Words = {"max_membership_tpr": _open_members, "max_accuracy_loss": _open_accuracy}
_BROKEN: _Words = {
    "max_recovered": _broken_share,
    "max_accuracy_loss": _broken_accuracy,
    "max_membership_tpr": _broken_members,
    "max_epsilon": _broken_epsilon,
}
