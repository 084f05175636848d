"""Summary of each setting: utility, strongest attack and epsilon, each with an interval.

An attack with granted dropout masks is a control; it counts as an attacker only if no other attack was run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from statistics import fmean, median_high

import numpy as np

from fedsim.core.metric import Metric
from fedsim.core.seeding import derive
from fedsim.judgement.evidence import Reach, reach
from fedsim.metrics.comparison import holm, mean_over_seeds, nested_mean, nested_rate, pair, sign_flip_p
from fedsim.metrics.statistics import wilson
from fedsim.record import GuaranteeRecord, Interval
from fedsim.record.guarantees import weakest_against_server
from fedsim.report.sweep.cells import Attacked, SweepCell
from fedsim.report.sweep.findings import worst_figure
from fedsim.report.sweep.gathered import SweepRecords, SweepSetting
from fedsim.report.verdict import RunJudge

FEW_FALSE_ALARMS = 0.01


@dataclass(frozen=True)
class Risk:
    """An attack on a setting: the recovered share of examples, averaged over victims, or the found share of members."""

    attack: str
    rate: Interval


@dataclass(frozen=True)
class Point:
    """Numeric summary of a setting.

    Attributes:
        utility: test metric of the setting, such as accuracy.
        loss: utility of the undefended control minus that of this setting, paired by seed, for the same metric.
        strongest: strongest attacker; `median` is the median attacker; `unaware` the strongest attacker without
            knowledge of the defense, or None if all or none know it.
        unproved_victims: victims that no attacker recovered and on which none converged: no evidence.
        reach: result of the ideal attacker on the same updates; None if it was not computed.
        success_difference: success of the strongest attack minus that on the control, paired by victim.
        p: p-value of the null hypothesis that this difference is 0, after Holm over all settings.
        membership: members found by the best membership attack at 1 % FPR, over all seeds.
        guarantee: weakest guarantee over all seeds, among the guarantees that hold against the server if every seed has
            such a guarantee; None if a seed has no guarantee.
        seconds: time of a single training of a client.
        figures: largest value of each metric that the policy limits, by name; None if it was not measured.
        members: members found by each membership attack at 1 % FPR, over all seeds.
        processor_seconds: processor time of a client's round, mean over seeds; `peak_memory` is the maximum in bytes;
            None if not recorded.
    """

    setting: SweepSetting
    utility: Interval | None
    loss: Interval | None
    strongest: Risk | None
    median: Risk | None
    unaware: Risk | None
    unproved_victims: int
    reach: Reach | None
    success_difference: Interval | None
    p: float | None
    membership: Risk | None
    guarantee: GuaranteeRecord | None
    seconds: Interval
    processor_seconds: float | None
    peak_memory: int | None
    attack_seconds: float
    figures: Mapping[str, Interval | None] = field(default_factory=dict[str, Interval | None])
    members: tuple[Risk, ...] = ()

    @property
    def name(self) -> str:
        """The name of the setting."""
        return self.setting.name

    @property
    def has_failed(self) -> bool:
        """Whether the setting was attacked, and every attack failed on every victim."""
        return self.strongest is None and any(self.setting.victims(label) for label in self.setting.labels)

    @property
    def utility_in_words(self) -> str:
        """Test metric with its mean value, as text."""
        measured = self.setting.test_metric
        return f"{measured.title} {measured.format(self.utility.value)}" if measured and self.utility else ""

    @property
    def gain(self) -> Interval | None:
        """The utility, negated if lower values are better."""
        return orient_figure(self.utility, self.setting.test_metric) if self.utility else None

    @property
    def epsilon(self) -> float:
        """Epsilon of the weakest guarantee; infinite without a guarantee."""
        return self.guarantee.epsilon if self.guarantee else math.inf

    @property
    def upload_bytes(self) -> int:
        """Size of an update in 32-bit numbers, in bytes."""
        return 4 * self.setting.cells[0].parameters


def orient_figure(figure: Interval, metric: Metric | None) -> Interval:
    """Return a figure with more as better: negated if lower values of its metric are better."""
    if metric is None or metric.better == "higher":
        return figure
    low, high = (None if bound is None else -bound for bound in (figure.high, figure.low))
    return Interval(value=-figure.value, low=low, high=high, n=figure.n)


def points(sweep: SweepRecords) -> list[Point]:
    """Return a point for every setting, in order."""
    all_points = [_point(setting, control_of(setting, sweep.settings), sweep) for setting in sweep.settings]
    adjusted = iter(holm([point.p for point in all_points if point.p is not None]))
    return [point if point.p is None else replace(point, p=next(adjusted)) for point in all_points]


def control_of(setting: SweepSetting, settings: Sequence[SweepSetting]) -> SweepSetting | None:
    """Return the undefended setting with the most values in common; None if missing, or for an undefended setting."""
    if setting.is_undefended:
        return None

    def shared(candidate: SweepSetting) -> int:
        return sum(setting.values.get(key) == value for key, value in candidate.values.items())

    return max((candidate for candidate in settings if candidate.is_undefended), key=shared, default=None)


def attackers(setting: SweepSetting) -> list[str]:
    """Return the labels of the attacks that count as attackers."""
    blind = [label for label in setting.labels if "masks" not in setting.knows(label)]
    return blind or setting.labels


def strongest_attack(setting: SweepSetting) -> str | None:
    """Return the label of the attack that recovers most, ties broken by mean guess quality; None without attacks."""
    return max(attackers(setting), key=lambda label: _strength(setting, label), default=None)


def group_by_seed(victims: Sequence[Attacked]) -> list[list[float]]:
    """Return the recovered shares of victims, grouped by seed; failed victims are skipped."""
    seeds: dict[int, list[float]] = {}
    for victim in victims:
        if victim.share is not None:
            seeds.setdefault(victim.seed, []).append(victim.share)
    return list(seeds.values())


def risk(setting: SweepSetting, label: str, judge: RunJudge) -> Risk | None:
    """Return the success of an attack; None if it returned no guess."""
    shares = tuple(map(tuple, group_by_seed(setting.victims(label))))
    return Risk(label, _rate(shares, judge.scoring.confidence, judge.scoring.resamples)) if shares else None


@lru_cache(maxsize=1024)
def _rate(shares: tuple[tuple[float, ...], ...], confidence: float, resamples: int) -> Interval:
    """Return the bootstrapped rate; cached, because text, tables and figures request the same rate."""
    return nested_rate(shares, _draws(), confidence, resamples)


def _point(setting: SweepSetting, control: SweepSetting | None, sweep: SweepRecords) -> Point:
    judge = sweep.judge
    strongest, found = strongest_attack(setting), members_found(setting, judge)
    difference, p = _success_difference(setting, control, judge)
    unaware = [label for label in attackers(setting) if "defenses" not in setting.knows(label)]
    best_unaware = max(unaware, key=lambda label: _strength(setting, label), default=None)
    is_informed = len(unaware) < len(attackers(setting))
    seconds = [cell.seconds / max(1, cell.client_rounds) for cell in setting.cells]
    victims = sum(tried.searches.victims for cell in setting.cells for tried in cell.attacks)
    costs = [cell.client_cost for cell in setting.cells if cell.client_cost is not None]
    return Point(
        setting=setting,
        utility=_utility(setting, judge.scoring.confidence),
        loss=_loss(setting, control, judge),
        strongest=risk(setting, strongest, judge) if strongest else None,
        median=_median(setting, judge),
        unaware=risk(setting, best_unaware, judge) if best_unaware and is_informed else None,
        unproved_victims=setting.count_unproved(attackers(setting)),
        reach=reach([v.ceiling for v in setting.victims(strongest)], judge.success) if strongest else None,
        success_difference=difference,
        p=p,
        membership=max(found, key=lambda attack: attack.rate.value, default=None),
        members=found,
        guarantee=_guarantee(setting.cells),
        seconds=mean_over_seeds(seconds, judge.scoring.confidence),
        processor_seconds=fmean(cost.processor_seconds for cost in costs) if costs else None,
        peak_memory=max((cost.peak_memory for cost in costs if cost.peak_memory is not None), default=None),
        attack_seconds=sum(t.seconds for cell in setting.cells for t in cell.attacks) / max(1, victims),
        figures={name: worst_figure(setting, name, judge.scoring.confidence) for name in sweep.policy.findings},
    )


def _utility(setting: SweepSetting, confidence: float) -> Interval | None:
    values = [cell.utility.value for cell in setting.cells if cell.utility is not None]
    return mean_over_seeds(values, confidence, setting.test_metric.limits) if setting.test_metric else None


def _strength(setting: SweepSetting, label: str) -> tuple[float, float]:
    tried, victims = setting.attempt(label), setting.victims(label)
    values = [
        attack.goal.sign * v
        for attack in tried
        for victim in attack.victims
        for v in victim.values.get(attack.goal.name, ())
    ]
    share = sum(victim.share or 0.0 for victim in victims) / max(1, len(victims))
    return share, float(np.mean(values)) if values else -math.inf


def _median(setting: SweepSetting, judge: RunJudge) -> Risk | None:
    risks = [success for label in attackers(setting) if (success := risk(setting, label, judge))]
    if not risks:
        return None
    middle = median_high([success.rate.value for success in risks])
    return next(success for success in risks if success.rate.value == middle)


def _loss(setting: SweepSetting, control: SweepSetting | None, judge: RunJudge) -> Interval | None:
    losses = gains(setting, control) if control else []
    return mean_over_seeds(losses, judge.scoring.confidence) if losses else None


def gains(before: SweepSetting, after: SweepSetting) -> list[float]:
    """Return the utility gain from the first to the second setting, per seed with the same metric."""
    earlier = {cell.seed: cell.utility for cell in before.cells}
    pairs = [(earlier.get(cell.seed), cell.utility) for cell in after.cells]
    return [
        late.metric.sign * (late.value - early.value)
        for early, late in pairs
        if late and early and late.name == early.name
    ]


def common_test_metric(points: Sequence[Point]) -> Metric | None:
    """Return the common test metric of all points; None if it differs."""
    metrics = {metric.name: metric for point in points if (metric := point.setting.test_metric)}
    return next(iter(metrics.values())) if len(metrics) == 1 else None


def measure(points: Sequence[Point]) -> str:
    """Return the title of the common test metric, or ``utility`` if it differs."""
    metric = common_test_metric(points)
    return metric.title if metric else "utility"


def example_noun(points: Sequence[Point]) -> str:
    """Return the plural noun of attacked examples."""
    nouns = {point.setting.decides.noun for point in points}
    return f"{nouns.pop()}s" if len(nouns) == 1 else "examples"


def success_words(points: Sequence[Point]) -> str:
    """Return examples and their verdict in words, such as "images identified"."""
    words = {point.setting.recovered_noun for point in points}
    return words.pop() if len(words) == 1 else f"{example_noun(points)} recovered"


def _success_difference(
    setting: SweepSetting, control: SweepSetting | None, judge: RunJudge
) -> tuple[Interval | None, float | None]:
    with_defense, without_defense = strongest_attack(setting), strongest_attack(control) if control else None
    if control is None or with_defense is None or without_defense is None:
        return None, None
    return difference(setting, with_defense, control, without_defense, judge)


def difference(
    setting: SweepSetting, label: str, control: SweepSetting, other_label: str, judge: RunJudge
) -> tuple[Interval | None, float | None]:
    """Return attack success in a setting minus that in another on the same victims, and its p-value."""
    pairs = pair(setting.shares(label), control.shares(other_label))
    if not pairs:
        return None, None
    interval = nested_mean(pairs, _draws(), judge.scoring.confidence, judge.scoring.resamples)
    return interval, sign_flip_p([value for seed in pairs for value in seed], _draws())


def members_found(setting: SweepSetting, judge: RunJudge) -> tuple[Risk, ...]:
    """Return the members that each membership attack finds at 1 % FPR, pooled over seeds."""
    totals: dict[str, tuple[float, int]] = {}
    for curve in (curve for cell in setting.cells for curve in cell.curves if FEW_FALSE_ALARMS in curve.rates):
        hits, members = totals.get(curve.finding.label, (0.0, 0))
        found = curve.rates[FEW_FALSE_ALARMS] * curve.members
        totals[curve.finding.label] = hits + found, members + curve.members
    return tuple(Risk(label, wilson(*total, judge.scoring.confidence)) for label, total in totals.items())


def _guarantee(cells: Sequence[SweepCell]) -> GuaranteeRecord | None:
    if not cells or not all(cell.guarantees for cell in cells):
        return None
    holding = [weakest_against_server(cell.guarantees) for cell in cells]
    if all(holding):
        return weakest_against_server(guarantee for guarantee in holding if guarantee)
    return max(
        (guarantee for cell in cells for guarantee in cell.guarantees if not guarantee.holds_against_server),
        key=_epsilon,
    )


def _epsilon(stated: GuaranteeRecord) -> float:
    return stated.epsilon


def _draws() -> np.random.Generator:
    return np.random.default_rng(derive(0, "bootstrap"))
