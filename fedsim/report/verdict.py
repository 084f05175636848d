"""Verdict of a run, in sentences that claim no more than the numbers.

A failed attack proves little by itself: it may be weak or badly tuned. So every run needs a positive control: an
attack with granted dropout masks, or any attack on an unprotected client.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean
from typing import Any, NamedTuple

from fedsim.core import registry
from fedsim.core.metric import Metric
from fedsim.core.types import GRANTS
from fedsim.judgement.outcome import is_beyond_chance
from fedsim.metrics.success import Rule
from fedsim.record import (
    ArmRecord,
    AttackFinding,
    Interval,
    RunRecord,
    VictimRecord,
)
from fedsim.report.document import Statement
from fedsim.scenario import Scoring, with_values

CONTROL_SUCCEEDS = 0.5


class Count(NamedTuple):
    """Recovered examples, out of the examples of victims with a guess; `failed_victims` have no guess."""

    recovered_examples: int
    examples: int
    victims: int
    noun: str = "image"
    failed_victims: int = 0

    @property
    def text(self) -> str:
        """How many of them."""
        failed = failed_on(self.failed_victims, self.failed_victims + self.victims)
        if not self.victims:
            return failed or "none"
        return f"{self.recovered_examples} of {self.examples}{f', {failed}' if failed else ''}"


class Column(NamedTuple):
    """A figure of summaries that tables show, and the metric that it is of."""

    name: str
    heading: str
    metric: Metric


@dataclass(frozen=True)
class RunJudge:
    """The record's own rule of success, applied to attacks and arms."""

    scoring: Scoring
    seed: int
    scenario: Mapping[str, Any]
    metrics_by_name: Mapping[str, Metric]

    @classmethod
    def of(cls, record: RunRecord) -> RunJudge:
        """Read the rule from the record's scenario, and its metrics from the record."""
        return cls.reading(record.plan, record.metrics_by_name)

    @classmethod
    def reading(cls, scenario: Mapping[str, Any], declared: Mapping[str, Metric]) -> RunJudge:
        """Return the judge of a scenario's rule; missing keys have the scenario's defaults.

        Raises:
            FedsimError: its metric is neither declared nor installed.
        """
        scoring = Scoring.model_validate(scenario.get("scoring", {}))
        if scoring.metric not in declared:
            declared = {**declared, **{metric.name: metric for metric in registry.find_metrics([scoring.metric])}}
        return cls(scoring, int(scenario.get("seed", 0)), scenario, declared)

    @property
    def success(self) -> Rule:
        """The rule for a recovered example."""
        return Rule(self.scoring.metric, self.scoring.threshold, self.metrics_by_name)

    def rule(self, *attacks: AttackFinding) -> str:
        """Return the rule for the guesses of these attacks, in words, for example ``SSIM > 0.5``."""
        return self.success.format_rule(_values(attacks))

    def deciding_metric(self, *attacks: AttackFinding) -> Metric:
        """Return the deciding metric for the guesses of these attacks."""
        return self.success.decides(_values(attacks))[0]

    def verdict(self, *attacks: AttackFinding) -> str:
        """Return the word for an example that these attacks succeeded on, for example "identified"."""
        return self.success.verdict(_values(attacks))

    def goal(self, attack: AttackFinding) -> Metric:
        """Return the metric by which guesses of an attack are better or worse."""
        return self.success.goal(_values([attack]))

    def order(self, attack: AttackFinding) -> Metric:
        """Return the metric that sorts an attack's guesses in figures: the first metric with a plotted distribution."""
        values = _values([attack])
        return next((metric for metric in self.spread if metric.name in values), self.goal(attack))

    @property
    def spread(self) -> list[Metric]:
        """The metrics with a plotted distribution."""
        return [metric for metric in self.metrics_by_name.values() if metric.spread]

    def columns(self, attacks: Sequence[AttackFinding], table: str = "") -> list[Column]:
        """Return the figures that a table of attacks shows: of each metric in their summaries its first."""
        measured = {name for attack in attacks for name in attack.extra_metrics}
        is_success = self.scoring.metric  # a deciding flag equals the success rate, which is shown already
        shown = (
            metric
            for metric in self.metrics_by_name.values()
            if metric.shown and metric.table == table and not (metric.form == "flag" and metric.name == is_success)
        )
        firsts = ((metric, *first) for metric in shown for first in list(metric.statistics.items())[:1])
        return [
            Column(name, metric.heading(statistic), metric) for metric, name, statistic in firsts if name in measured
        ]

    def count_recovered(self, victim: VictimRecord) -> int:
        """Return how many of a victim's examples count as recovered."""
        return sum(map(self.success.has_succeeded, victim.scores))

    def count(self, attack: AttackFinding) -> Count:
        """Count the examples of the victims that the attack gave a guess of."""
        guessed = [victim for victim in attack.victims if has_guess(victim)]
        return Count(
            sum(map(self.count_recovered, guessed)),
            sum(victim.examples for victim in guessed),
            len(guessed),
            self.deciding_metric(attack).noun,
            len(attack.victims) - len(guessed),
        )

    def is_control(self, arm: ArmRecord, attack: AttackFinding) -> bool:
        """Return whether the attack is a positive control: it knows the masks, or the arm is unprotected."""
        return "masks" in attack.knows or self.is_unprotected(arm)

    @cached_property
    def _scenarios(self) -> dict[str, Mapping[str, Any]]:
        return {}

    def scenario_of(self, arm: ArmRecord) -> Mapping[str, Any]:
        """Return the scenario of an arm, its values filled in; it is made once."""
        if arm.name not in self._scenarios:
            self._scenarios[arm.name] = with_values(self.scenario, arm.values)
        return self._scenarios[arm.name]

    def is_unprotected(self, arm: ArmRecord) -> bool:
        """Return whether an arm has no defense, no component and no active dropout, and shows single updates."""
        scenario = self.scenario_of(arm)
        is_mixed = scenario.get("threat", {}).get("view") == "sum"
        return not (scenario.get("defenses") or scenario.get("components") or arm.dropout or is_mixed)

    def server(self, arm: ArmRecord) -> str:
        """Return the arm's kind of server, in words."""
        threat = self.scenario_of(arm).get("threat", {})
        return "a malicious server" if threat.get("server") == "malicious" else "an honest-but-curious server"

    def control_succeeded(self, attack: AttackFinding) -> bool:
        """Return whether at least half of the control's examples were recovered."""
        count = self.count(attack)
        return count.examples > 0 and count.recovered_examples >= CONTROL_SUCCEEDS * count.examples


def has_guess(victim: VictimRecord) -> bool:
    """Return whether an attack returned a guess for a victim."""
    return victim.failure is None and victim.examples > 0


def failed_on(failed: int, victims: int) -> str:
    """Return on how many victims an attack failed, for people; nothing where it did on none."""
    return f"failed on {failed} of {victims}" if failed else ""


def _values(attacks: Sequence[AttackFinding]) -> Mapping[str, float]:
    """Return the metrics of the first guessed example of the attacks; empty without a guess."""
    return next((item.values for attack in attacks for victim in attack.victims for item in victim.scores), {})


def knowledge(attack: AttackFinding) -> str:
    """Return the grants of an attack, in words."""
    return (
        join_words([GRANTS[name].assumption_name for name in attack.knows]) or "nothing beyond the model and the update"
    )


def sentences(record: RunRecord, judge: RunJudge) -> list[Statement]:
    """Return the sentences on the examples that attacks on updates recovered, arm by arm."""
    return [sentence for arm in record.arms for sentence in _about(arm, judge)]


def bounds(interval: Interval, scale: float = 1.0, digits: int = 1) -> str:
    """Return ``low to high``, or an empty text when n does not support an interval."""
    if interval.low is None or interval.high is None:
        return ""
    return f"{interval.low * scale:.{digits}f} to {interval.high * scale:.{digits}f}"


def with_bounds(value: str, interval: str) -> str:
    """Return a figure with its interval, if any, as `bounds` returns it."""
    return f"{value} ({interval})" if interval else value


def _about(arm: ArmRecord, judge: RunJudge) -> Iterator[Statement]:
    if arm.attacks or not arm.answers:
        yield _doubt(_sentence(arm, judge), arm)


def _doubt(sentence: Statement, arm: ArmRecord) -> Statement:
    """Add to a sentence that the ground truth may be wrong, if the replay of the clients failed."""
    if arm.replay_matches or not arm.attacks:
        return sentence
    after = (
        f"{sentence.after} The ground truth of this score is uncertain: the replay of the clients' round did not match."
    )
    return replace(sentence, after=after)


def _sentence(arm: ArmRecord, judge: RunJudge) -> Statement:
    if not any(attack.victims for attack in arm.attacks):
        return Statement(arm.name, "No attack was tried", after=", so nothing can be said about its privacy.")
    tried = [attack for attack in arm.attacks if attack.value is not None]
    if not tried:
        labels = join_words([attack.label for attack in arm.attacks])
        return Statement(arm.name, "Every attack failed", after=f" ({labels}); the reasons are listed below.")
    uninformed = [attack for attack in tried if "masks" not in attack.knows]
    strongest = max(uninformed or tried, key=lambda attack: strength(attack, judge))
    count = judge.count(strongest)
    before = f"Under {judge.server(arm)} that knows {knowledge(strongest)}, "
    control = "" if strongest not in uninformed else _control_clause(arm, judge)
    if not count.recovered_examples:
        labels = join_words([attack.label for attack in uninformed or tried])
        after = f" ({labels}; {_measure(strongest, judge)}), which is no guarantee.{control}"
        images = f"the one {count.noun} was not" if count.examples == 1 else f"none of {_images(count)} was"
        strong = f"{images} recovered by the attacks that were tried"
        return Statement(arm.name, strong, before=before, after=after)
    verb = "is" if count.recovered_examples == 1 else "are"
    strong = f"{count.recovered_examples} of {_images(count)} {verb} {judge.verdict(strongest)}"
    if not is_beyond_chance(strongest.victims, judge.success):
        after = f" ({_measure(strongest, judge)}) with attack {strongest.label}, which blind guesses explain.{control}"
        return Statement(arm.name, strong, before=before, after=after)
    fooled = _fooled_clause(uninformed, judge)
    equals = join_words([attack.label for attack in equally_strong(strongest, uninformed, judge)])
    also = f" As many with {equals}." if equals else ""
    after = f" ({_measure(strongest, judge)}) with attack {strongest.label}.{also}{fooled}{control}"
    return Statement(arm.name, strong, "recovered", before, after)


def _fooled_clause(uninformed: list[AttackFinding], judge: RunJudge) -> str:
    """Name the attacks that recovered nothing although another attack succeeded: relying on them is false security."""
    failed = [attack.label for attack in uninformed if not judge.count(attack).recovered_examples]
    if not failed:
        return ""
    return f" {join_words(failed)} alone recovered none: its failure would have passed for protection."


def _control_clause(arm: ArmRecord, judge: RunJudge) -> str:
    """Describe the result of an attack that knew the masks: it separates hidden information from lost information."""
    informed = [attack for attack in arm.attacks if "masks" in attack.knows and attack.value is not None]
    if not informed:
        return ""
    best = max(informed, key=lambda attack: strength(attack, judge))
    clause = f" Granted the masks, attack {best.label} recovers {judge.count(best).text}."
    return clause if judge.control_succeeded(best) else f"{clause} That control did not succeed in this arm."


def _measure(attack: AttackFinding, judge: RunJudge) -> str:
    count = judge.count(attack)
    interval = "" if attack.value is None else bounds(attack.value, 100, 0)
    stated = f"{100 * judge.scoring.confidence:g}% interval {interval}%" if interval else ""
    failed = failed_on(count.failed_victims, len(attack.victims))
    return ", ".join(filter(None, (judge.rule(attack), stated, f"{failed} updates" if failed else "")))


def equally_strong(strongest: AttackFinding, attacks: Sequence[AttackFinding], judge: RunJudge) -> list[AttackFinding]:
    """Return the other attacks that recover as many examples as the strongest, the closest guesses first."""
    count = judge.count(strongest).recovered_examples
    if not count:
        return []
    equals = [
        attack for attack in attacks if attack is not strongest and judge.count(attack).recovered_examples == count
    ]
    return sorted(equals, key=lambda attack: strength(attack, judge), reverse=True)


def strength(attack: AttackFinding, judge: RunJudge) -> tuple[float, float]:
    """Rank by how many victims were recovered; attacks of the same rank by the metric that orders their guesses."""
    goal = judge.goal(attack)
    values = [item.values[goal.name] for victim in attack.victims for item in victim.scores]
    return (
        attack.value.value * attack.value.n if attack.value else 0.0,
        goal.sign * fmean(values) if values else -math.inf,
    )


def _images(count: Count) -> str:
    noun = count.noun if count.examples == 1 else f"{count.noun}s"
    return f"{count.examples} {noun}" + (f" of {count.victims} updates" if count.examples != count.victims else "")


def join_words(words: list[str]) -> str:
    """Return words as a part of a sentence: ``a, b and c``; nothing for none."""
    return words[0] if len(words) == 1 else " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
