"""membership: infer whether an example was trained on.

Members are examples behind counted updates; an equal number of non-members comes from the test set. An attacker that
identifies a few members with certainty is a threat, so the TPR at low FPR matters more than the AUC.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, final

import numpy as np
from pydantic import Field, model_validator
from torch import Tensor

from fedsim.core import registry, seeding
from fedsim.core.best_step import TimedConfig
from fedsim.core.errors import ScenarioError, reason
from fedsim.core.registry import question
from fedsim.metrics.membership import name_of, rate_of_luck, separation
from fedsim.processes.methods import MethodRunner, require_tensor
from fedsim.questions.base import Evidence, Question, QuestionContext
from fedsim.questions.membership import observe as membership
from fedsim.questions.membership.hooks import MembershipAttack
from fedsim.questions.membership.types import Shadow, ShadowPlan, Target
from fedsim.record import Finding
from fedsim.scenario.choices import ReportedChoice, check_reported
from fedsim.scenario.world import World


class MembershipChoice(ReportedChoice):
    """A membership attack and its name in the report."""

    base: ClassVar[type[Any]] = MembershipAttack


class Membership(TimedConfig):
    """The number of candidates and the membership attacks."""

    candidates: int = Field(
        default=500,
        ge=2,
        description="members, and as many non-members; against a client's updates at most as many as it trained on",
    )
    attacks: tuple[MembershipChoice, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _labels_differ(self) -> Membership:
        check_reported(self.attacks)
        return self


@final
@question("membership", summary="was an example trained on?", related="2112.03570")
class MembershipQuestion(Question[Membership]):
    """Runs membership attacks, and measures the separation of members and non-members by their scores.

    A finding's value is the TPR at the lowest FPR that the number of candidates supports.
    """

    metric: ClassVar[str] = "auc"
    title: ClassVar[str] = "Who was a member?"
    summary: ClassVar[str] = (
        "Membership attacks score every candidate; members are training examples, non-members "
        "come from the test set. An attacker that is certain about a few members is a threat, "
        "so the main value is the share of members found (TPR) at a low false-positive rate "
        "(FPR)."
    )
    method: ClassVar[str] = (
        "TPR at a low FPR is the largest TPR with an FPR of at most this value, with a "
        "Clopper-Pearson interval at that threshold; an FPR below 1 / (number of non-members) "
        "is not measurable. The advantage is TPR - FPR at a threshold chosen on half of the "
        "candidates and evaluated on the other half; guessing gives 0. The AUC has a bootstrap "
        "interval over candidates. Members of the model are the examples in batches of counted "
        "updates; members of a client's updates are the examples in its own batches."
    )
    watches_models: ClassVar[bool] = True

    def describe_attacker(self) -> Iterator[str]:
        """Yield the number of candidates and the attackers' knowledge."""
        yield (
            f"Membership attacks judge {self.config.candidates} training examples and as many others, shuffled. They "
            "know how the federation trains, the global model after every watched round and after the last, and half "
            "of the test set."
        )

    @classmethod
    def example(cls) -> Mapping[str, Any]:
        """Return the tables of a scenario with one attack."""
        return {
            "data": {"name": "digits", "test_fraction": 0.8},
            "federation": {"algorithm": "fedavg", "clients": 4, "rounds": 2, "local_steps": 3, "batch_size": 8},
            "threat": {"rounds": [1, 2]},
            "membership": {"candidates": 40, "attacks": [{"name": "loss-threshold"}]},
        }

    def check(self, world: World) -> None:
        """Check that examples have a loss, and that there are enough candidates."""
        if not world.task.has_labels:
            raise ScenarioError(
                "membership: the attacks use the loss of an example, and the examples of data "
                f"'{world.scenario.data.name}' have no labels. Remove [membership]."
            )
        membership.check(world, self.config.candidates)
        methods = (registry.get("attack", choice.name) for choice in self.config.attacks)
        attacks = [method.derived_from(MembershipAttack) for method in methods]
        if any(attack is not None and attack.target == "model" for attack in attacks):
            membership.check_trained_on(world, self.config.candidates)

    def run(self, evidence: Evidence, work: QuestionContext) -> Iterator[Finding]:
        """Yield one finding per attack; all attacks share candidates and shadow models."""
        yield from judge_all(self.config.attacks, Cases(evidence, work, self.config.candidates))


@dataclass
class Cases:
    """Candidates and shadow models, built at their first use.

    Attributes:
        evidence: results of the training.
        work: run context, stores the ROC curve of each attack.
        candidates: number of members, and of non-members.
        scores: candidates' scores by the attack's label, shape (N,).
        cases_by_target: cases by target.
        shadows_by_plan: shadow models by target and plan.
    """

    evidence: Evidence
    work: QuestionContext
    candidates: int
    scores: dict[str, Tensor] = field(default_factory=dict)
    cases_by_target: dict[Target, membership.Case] = field(default_factory=dict)
    shadows_by_plan: dict[tuple[Target, ShadowPlan], tuple[Shadow, ...]] = field(default_factory=dict)

    def case(self, target: Target) -> membership.Case:
        """Return the case of an attack on the model, or on a client's updates."""
        if target not in self.cases_by_target:
            world, journal = self.evidence.world, self.evidence.journal
            self.cases_by_target[target] = (
                membership.observe_model(world, journal, self.candidates, self.work.salt)
                if target == "model"
                else membership.observe_updates(world, journal, self.evidence.truths, self.candidates, self.work.salt)
            )
        return self.cases_by_target[target]

    def shadows(self, label: str, target: Target, plan: ShadowPlan | None) -> dict[ShadowPlan, tuple[Shadow, ...]]:
        """Return the shadow models of an attack's plan, and no others."""
        if plan is None:
            return {}
        if (target, plan) not in self.shadows_by_plan:
            self.shadows_by_plan[target, plan] = membership.shadows(
                self.case(target).observation,
                plan,
                self.evidence.world.scenario.seed,
                lambda number: self.work.progress(f"{label}: shadow model", number, plan.count),
            )
        return {plan: self.shadows_by_plan[target, plan]}


def judge_all(attacks: Sequence[MembershipChoice], cases: Cases) -> Iterator[Finding]:
    """Yield the findings of all attacks in order; exceptions of an attack or of its start become failures.

    Args:
        attacks: the attacks.
        cases: candidates; receives the attacks' scores.
    """
    for choice in attacks:
        attack: MembershipAttack[Any] = choice.make("attack")
        finding = open_finding(choice.report_name, choice.name, choice.settings, attack.target)
        try:
            with cases.work.start(choice) as at_work:
                finding = judge(finding, attack, at_work, cases)
        except Exception as error:  # an attack may raise anything
            finding = finding.model_copy(update={"failure": reason(error)})
        yield finding


def open_finding(label: str, method: str, settings: dict[str, Any], target: Target) -> Finding:
    """Return the finding of an attack before its run, without a value."""
    return Finding(
        question="membership",
        label=label,
        method=method,
        settings=settings,
        scope={"target": target},
        metric="auc",
        chance_level=0.5,
    )


def judge(finding: Finding, attack: MembershipAttack[Any], at_work: MethodRunner, cases: Cases) -> Finding:
    """Run one attack, and complete its finding.

    Args:
        finding: result of `open_finding`.
        attack: attack of the finding.
        at_work: the same attack, in this process or in a subprocess.
        cases: candidates; receives the attack's scores.
    """
    scenario, case = cases.evidence.world.scenario, cases.case(attack.target)
    seen = replace(case.observation, shadows=cases.shadows(finding.label, attack.target, attack.plan()))
    begin = time.perf_counter()
    source = seeding.generator(scenario.seed, f"membership attack {finding.label}")
    scores = attack.check_scores(
        require_tensor(at_work.call(MembershipAttack.__call__, seen, generators=[source])), seen
    )
    seconds = time.perf_counter() - begin
    cases.scores[finding.label] = scores
    cases.work.check_cancelled()
    draws = np.random.default_rng(seeding.derive(scenario.seed, "bootstrap"))
    summary = separation(scores, case.is_member, draws, scenario.scoring.confidence, scenario.scoring.resamples)
    items = f"membership/{finding.label}/roc"
    cases.work.items[items] = dict(zip(("fpr", "tpr"), map(list, zip(*summary.roc, strict=True)), strict=True))
    members = int(case.is_member.sum())
    scope: dict[str, Any] = {**finding.scope, "members": members, "non_members": len(case.is_member) - members}
    if case.client is not None:
        scope |= {"client": case.client, "rounds": ", ".join(map(str, case.rounds))}
    figures = summary.figures
    metric, chance = "auc", 0.5
    if summary.rates:
        rarest = min(summary.rates)
        luck = np.random.default_rng(seeding.derive(scenario.seed, "luck of members"))
        metric, chance = name_of(rarest), rate_of_luck(scores, case.is_member, rarest, luck)
    value = figures.pop(metric)
    return finding.model_copy(
        update={
            "scope": scope,
            "metric": metric,
            "chance_level": chance,
            "value": value,
            "extra_metrics": figures,
            "seconds": seconds,
            "items": items,
        }
    )
