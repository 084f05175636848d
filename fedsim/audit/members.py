"""Membership attacks on a client's updates and on its trained model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import numpy as np

from fedsim.audit.groups import ExampleGroups, compare
from fedsim.audit.single_client import ROUNDS
from fedsim.audit.training import TrainedClient
from fedsim.core import registry, seeding
from fedsim.core.errors import FedsimError
from fedsim.core.time_budget import TimeBudget, TimeBudgetExceeded, interrupt_on_timeout
from fedsim.metrics.groups import aucs
from fedsim.processes.methods import MethodRunner, ShouldStop, start_in_process
from fedsim.questions.base import Evidence, QuestionContext
from fedsim.questions.membership import observe as membership
from fedsim.questions.membership.hooks import MembershipAttack
from fedsim.questions.membership.question import Cases, MembershipChoice, judge_all
from fedsim.questions.membership.types import ShadowPlan, Target
from fedsim.record import Finding
from fedsim.scenario import Choice

MOST = 100  # candidates; 1 % false positives need as many non-members
FEWEST = 10


def count_candidates(training: TrainedClient) -> int:
    """Return the largest number of members, with as many non-members; half of the test data belong to the attacker."""
    world = training.evidence.world
    data, federation = world.data.dataset, world.scenario.federation
    touched = ROUNDS * federation.batch_size * federation.local_steps
    return min(MOST, touched, len(data.train), len(data.test) // 2)


def attacks() -> list[MembershipChoice]:
    """Return all installed membership attacks, first the attacks without shadow models."""
    without_shadows = attacks_without_shadows()
    choices = (MembershipChoice(name=name) for name in sorted(registry.methods("attack", MembershipAttack)))
    return [*without_shadows, *(choice for choice in choices if choice not in without_shadows)]


def attacks_without_shadows() -> list[MembershipChoice]:
    """Return the membership attacks that train no shadow models."""
    methods = sorted(registry.methods("attack", MembershipAttack).items())
    return [MembershipChoice(name=name) for name, method in methods if method.make(method.config()).plan() is None]


def cases_of(training: TrainedClient, work: QuestionContext) -> Cases:
    """Return the membership cases: as many candidates as possible, in as few updates as contain them.

    Candidates are limited to the examples used in training, since sampling may repeat examples and time may end it
    early.
    """
    evidence = training.evidence
    used = int((membership.count_training(evidence.world, evidence.journal.rounds) > 0).sum())
    candidates = min(count_candidates(training), max(2, used))
    size = max(1, min(len(truth.original_batches[0]) for truth in evidence.truths))
    watched = -(-candidates // size)
    journal = replace(evidence.journal, entries=evidence.journal.entries[:watched])
    return Cases(Evidence(evidence.world, journal, evidence.replays[:watched]), work, candidates)


def judge_within(
    seconds: float,
    choices: Sequence[MembershipChoice],
    cases: Cases,
    training: TrainedClient,
    on_progress: Callable[[str], None],
) -> Iterator[Finding]:
    """Yield a finding of every attack.

    Args:
        seconds: time for all attacks; the finding of an attack that does not fit contains the reason.
        choices: the attacks.
        cases: cases to score; they collect the attack scores.
        training: source of the time per shadow model.
        on_progress: callback for progress messages.
    """
    budget = TimeBudget.with_wall_limit(seconds)

    @contextmanager
    def start(choice: Choice, should_stop: ShouldStop) -> Iterator[MethodRunner]:
        on_progress(f"membership: {choice.name}")
        attack: MembershipAttack[Any] = choice.make("attack")
        plan, left = attack.plan(), budget.remaining_seconds
        cost = 0.0 if plan is None or (attack.target, plan) in cases.shadows_by_plan else cost_of(plan, training)
        if left <= cost:
            raise FedsimError(too_long(plan, cost, seconds))
        try:
            with interrupt_on_timeout(budget), start_in_process(choice, should_stop) as at_work:
                yield at_work
        except TimeBudgetExceeded:
            raise FedsimError("its time was over") from None

    cases.work.starts = start
    yield from judge_all(choices, cases)


def too_long(plan: ShadowPlan | None, cost: float, seconds: float) -> str:
    """Return why the remaining time is too short for an attack, without full stop."""
    share = f"the {seconds:.0f} s for membership attacks"
    if plan is None:
        return f"{share} were over; give more minutes"
    return f"its {plan.count} shadow models take about {cost:.0f} s, more than is left of {share}; give more minutes"


def cost_of(plan: ShadowPlan, training: TrainedClient) -> float:
    """Return the estimated seconds for training the shadow models of a plan."""
    return plan.count * training.summary.rounds * training.summary.seconds_a_round


def compare_groups(findings: Iterable[Finding], cases: Cases, groups: ExampleGroups) -> tuple[Finding, ...]:
    """Return the AUC by group of the best attack (by AUC) for which groups exist."""
    for finding in sorted((finding for finding in findings if not finding.failure), key=_auc, reverse=True):
        case = cases.case(cast("Target", finding.scope["target"]))
        names = groups.of(case.observation.candidates)
        if not names:
            continue
        source = np.random.default_rng(seeding.derive(cases.evidence.world.scenario.seed, "bootstrap"))
        scores = cases.scores[finding.label].double().numpy()
        risks = aucs(scores, case.is_member.numpy(), names, source)
        if risks:
            return compare(groups.name, f"AUC of {finding.label}", "auc", risks)
    return ()


def _auc(finding: Finding) -> float:
    figure = finding.figures.get("auc")
    return figure.value if figure else 0.0
