"""A sweep cell: a setting under a seed, read from an arm's record and reduced to the report's needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fedsim.core.metric import Metric
from fedsim.core.types import Knowledge
from fedsim.experiment.sweep.folder import PlannedRun
from fedsim.judgement import evidence
from fedsim.metrics.membership import LOW_FPR, name_of
from fedsim.record import (
    ArmRecord,
    AttackFinding,
    Ceiling,
    ClientCost,
    Finding,
    GuaranteeRecord,
    Utility,
    VictimRecord,
)
from fedsim.report.figures import roc_curves
from fedsim.report.verdict import RunJudge, has_guess

_LATE = 0.95  # share of a search's iterations: a best objective after it was still falling


class Attacked(NamedTuple):
    """An update under an attack; `share` of its examples were recovered, and each metric has a value per example.

    `share` is None if the attack failed. `is_evidence` states whether a failed recovery is evidence
    (`fedsim.judgement.evidence`).
    """

    seed: int
    round: int
    client: int
    share: float | None
    values: Mapping[str, tuple[float, ...]]
    is_evidence: bool = False
    ceiling: Ceiling | None = None


class Searches(NamedTuple):
    """Counts of victims by the end of an attack's searches; guesses of `converged_victims` explain the update."""

    victims: int
    gave_up: int
    searched_victims: int
    converged_victims: int
    falling_victims: int


class Tried(NamedTuple):
    """An attack in a cell. `goal` is the metric that ranks its guesses."""

    label: str
    knows: tuple[Knowledge, ...]
    victims: tuple[Attacked, ...]
    searches: Searches
    reasons: tuple[str, ...]
    seconds: float
    goal: Metric


class FindingCurve(NamedTuple):
    """A finding with a ROC curve, and the curve's points (FPR, TPR)."""

    finding: Finding
    points: Sequence[tuple[float, float]]

    @property
    def members(self) -> int:
        """Number of members."""
        return int(self.finding.scope["members"])

    @property
    def non_members(self) -> int:
        """Number of non-members."""
        return int(self.finding.scope["non_members"])

    @property
    def rates(self) -> dict[float, float]:
        """TPR at each low FPR that the number of non-members supports."""
        figures = self.finding.figures
        return {fpr: rate.value for fpr in LOW_FPR if (rate := figures.get(name_of(fpr))) is not None}


@dataclass(frozen=True)
class SweepCell:
    """A setting under a seed.

    `seconds` is the time of training without attacks, for `client_rounds` trainings of a client.
    """

    digest: str
    arm: int
    seed: int
    utility: Utility | None
    guarantees: tuple[GuaranteeRecord, ...]
    attacks: tuple[Tried, ...]
    curves: tuple[FindingCurve, ...]
    parameters: int
    seconds: float
    client_rounds: int
    client_cost: ClientCost | None
    findings: tuple[Finding, ...] = ()


def cell_of(planned: PlannedRun, judge: RunJudge, number: int, arm: ArmRecord) -> SweepCell:
    """Return the cell of an arm in the record of a planned run."""
    seed = int(planned.values.get("seed", judge.seed))
    utilities = [utility for entry in arm.rounds if (utility := entry.utility(judge.metrics_by_name)) is not None]
    attacking = sum(finding.seconds for finding in arm.findings)
    return SweepCell(
        digest=planned.digest,
        arm=number,
        seed=seed,
        utility=utilities[-1] if utilities else None,
        guarantees=arm.guarantees,
        attacks=tuple(_attempt(attack, seed, judge) for attack in arm.attacks),
        curves=tuple(FindingCurve(*curve) for curve in roc_curves(arm)),
        parameters=arm.parameters,
        seconds=max(0.0, arm.seconds - attacking),
        client_rounds=sum(len(entry.cohort) for entry in arm.rounds),
        client_cost=arm.client_cost,
        findings=arm.answers,
    )


def _attempt(attack: AttackFinding, seed: int, judge: RunJudge) -> Tried:
    reasons = dict.fromkeys(victim.failure for victim in attack.victims if victim.failure)
    return Tried(
        attack.label,
        attack.knows,
        tuple(_attack(victim, seed, judge) for victim in attack.victims),
        _searches(attack),
        tuple(reasons),
        attack.seconds,
        judge.goal(attack),
    )


def _attack(victim: VictimRecord, seed: int, judge: RunJudge) -> Attacked:
    if not has_guess(victim):
        return Attacked(seed, victim.round, victim.client, None, {}, False, victim.ceiling)
    return Attacked(
        seed,
        victim.round,
        victim.client,
        judge.count_recovered(victim) / victim.examples,
        {
            name: tuple(item.values[name] for item in victim.scores if name in item.values)
            for name in dict.fromkeys(name for item in victim.scores for name in item.values)
        },
        evidence.is_evidence(victim, judge.success),
        victim.ceiling,
    )


def _searches(attack: AttackFinding) -> Searches:
    ended = [v for v in attack.victims if v.failure is None and v.objective is not None]
    judged = [v for v in ended if v.converged is not None]
    return Searches(
        victims=len(attack.victims),
        gave_up=sum(v.failure is not None for v in attack.victims),
        searched_victims=len(judged),
        converged_victims=sum(v.converged is True for v in judged),
        falling_victims=sum(v.iterations > 1 and v.best_iteration >= _LATE * v.iterations for v in ended),
    )
