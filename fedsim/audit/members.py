"""Run membership attacks on a client's updates and on the model that it trained."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, cast

import numpy as np

from fedsim.audit.clock import OutOfTime, limit
from fedsim.audit.foreign import reason
from fedsim.audit.groups import ExampleGroups, compare
from fedsim.audit.training import TrainedClient
from fedsim.audit.worlds import ROUNDS
from fedsim.core import registry, seeding
from fedsim.core.hooks import MembershipAttack
from fedsim.core.types import ShadowPlan, Target
from fedsim.metrics.groups import aucs
from fedsim.questions import Evidence, Work
from fedsim.questions.membership import Cases, judge, open_finding
from fedsim.record import Finding
from fedsim.threat import membership
from fedsim.threat.attacking import Here

MOST = 100  # as many non-members as 1 % false positives need
FEWEST = 10


def count_candidates(training: TrainedClient) -> int:
    """Return how many members, and as many others, can be judged; half of the test data belong to the attacker."""
    world = training.evidence.world
    data, federation = world.data.dataset, world.scenario.federation
    touched = ROUNDS * federation.batch_size * federation.local_steps
    return min(MOST, touched, len(data.train), len(data.test) // 2)


def cases_of(training: TrainedClient, wanted: int, work: Work) -> Cases:
    """Return whom attacks judge: so many members, if as many examples were trained on, in as few updates as hold them.

    Some examples are drawn twice, or the time ended.
    """
    evidence = training.evidence
    used = int((membership.count_training(evidence.world, evidence.journal.rounds) > 0).sum())
    candidates = min(wanted, max(2, used))
    size = max(1, min(len(truth.private[0]) for truth in evidence.truths))
    watched = -(-candidates // size)
    journal = replace(evidence.journal, entries=evidence.journal.entries[:watched])
    return Cases(Evidence(evidence.world, journal, evidence.replays[:watched]), work, candidates)


def judge_members(
    cases: Cases,
    training: TrainedClient,
    seconds: float,
    on_progress: Callable[[str], None],
    *,
    with_shadows: bool,
) -> Iterator[Finding]:
    """Yield a finding of every membership attack, first those without shadow models.

    Args:
        cases: whom they judge; gets their scores.
        training: says how long a shadow model takes.
        seconds: time for all of them; what does not fit says so.
        on_progress: called with what is being done.
        with_shadows: whether attacks train shadow models; else those that do are left out.
    """
    end = time.monotonic() + seconds
    for name, attack in sorted(_attacks().items(), key=lambda pair: pair[1].plan() is not None):
        plan = attack.plan()
        if plan is not None and not with_shadows:
            continue
        on_progress(f"membership: {name}")
        finding = open_finding(name, name, attack.config.model_dump(mode="json"), attack.target)
        is_ready = plan is None or (attack.target, plan) in cases.trained
        cost = 0.0 if plan is None or is_ready else cost_of(plan, training)
        left = end - time.monotonic()
        if left <= cost:
            yield finding.model_copy(update={"failure": too_long(plan, cost, seconds)})
        else:
            yield _judge_within(left, finding, attack, cases)


def _judge_within(seconds: float, finding: Finding, attack: MembershipAttack[Any], cases: Cases) -> Finding:
    """Complete the finding of an attack, or say in it why the attack failed."""
    try:
        with limit(seconds):
            return judge(finding, attack, Here(attack), cases)
    except OutOfTime:
        return finding.model_copy(update={"failure": "the clock ended it"})
    except Exception as error:
        return finding.model_copy(update={"failure": reason(error)})


def too_long(plan: ShadowPlan | None, cost: float, seconds: float) -> str:
    """Return why the rest of some seconds is too short for an attack, without full stop."""
    share = f"the {seconds:.0f} s for membership attacks"
    if plan is None:
        return f"{share} were over; give more minutes"
    return f"its {plan.count} shadow models take about {cost:.0f} s, more than is left of {share}; give more minutes"


def cost_of(plan: ShadowPlan, training: TrainedClient) -> float:
    """Return about how many seconds the shadow models of a plan take."""
    return plan.count * training.summary.rounds * training.summary.seconds_a_round


def compare_members(findings: Iterable[Finding], cases: Cases, groups: ExampleGroups) -> tuple[Finding, ...]:
    """Return how well the best attack tells members of each group; of the first by AUC for whom there are groups."""
    for finding in sorted((one for one in findings if not one.failure), key=_auc, reverse=True):
        case = cases.case(cast("Target", finding.about["target"]))
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


def _attacks() -> dict[str, MembershipAttack[Any]]:
    return {name: method.make(method.config()) for name, method in registry.methods("membership").items()}
