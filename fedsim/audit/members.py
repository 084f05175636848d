"""Run membership attacks on a client's updates and on the model that it trained."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fedsim.audit.clock import OutOfTime, limit
from fedsim.audit.foreign import reason
from fedsim.audit.groups import Groups
from fedsim.audit.training import Trained
from fedsim.core import registry, seeding
from fedsim.core.hooks import MembershipAttack
from fedsim.core.types import Batch, Shadow, ShadowPlan, Target
from fedsim.metrics.groups import aucs
from fedsim.record import GroupRisk, MembershipRecord
from fedsim.scenario.world import World
from fedsim.threat import membership
from fedsim.threat.membership import Case, shadows

MOST = 100  # as many non-members as 1 % false positives need
FEWEST = 10


@dataclass(frozen=True)
class Risks:
    """What attacks find of the members of every group: by what the groups are of, then by attack."""

    groups: tuple[Groups, ...] = ()
    found: dict[str, dict[str, tuple[GroupRisk, ...]]] = field(
        default_factory=dict[str, dict[str, tuple[GroupRisk, ...]]]
    )


def candidates(own: Batch, test: Batch) -> int:
    """Return how many members, and as many others, can be judged; half of the test data belong to the attacker."""
    return min(MOST, len(own), len(test) // 2)


def judged(
    world: World,
    trained: Trained,
    seconds: float,
    on_progress: Callable[[str], None],
    wanted: int,
    *,
    with_shadows: bool,
    risks: Risks | None = None,
) -> tuple[MembershipRecord, ...]:
    """Run every membership attack that fits the time, first those without shadow models.

    What each finds of the members of every group is added to `risks`, where it is given.
    """
    risks = Risks() if risks is None else risks
    end = time.monotonic() + seconds
    most = _most(world, trained, wanted)
    cases: dict[Target, Case] = {}
    known: dict[ShadowPlan, tuple[Shadow, ...]] = {}
    records: list[MembershipRecord] = []
    for name, attack in sorted(_attacks().items(), key=lambda own: own[1].plan() is not None):
        plan = attack.plan()
        if plan is not None and not with_shadows:
            continue
        on_progress(f"membership: {name}")
        left = end - time.monotonic()
        record = MembershipRecord(
            label=name,
            name=name,
            settings=attack.config.model_dump(mode="json"),
            target=attack.target,
            members=0,
            non_members=0,
        )
        cost = 0.0 if plan is None or plan in known else _cost(plan, trained)
        if left <= cost:
            records.append(record.model_copy(update={"failure": _too_long(plan, cost, seconds)}))
            continue
        try:
            with limit(left):
                records.append(_judge(world, trained, most, attack, record, cases, known, risks))
        except OutOfTime:
            records.append(record.model_copy(update={"failure": "the clock ended it"}))
        except Exception as error:
            why = reason(error)
            records.append(record.model_copy(update={"failure": why}))
    return tuple(records)


def _most(world: World, trained: Trained, wanted: int) -> int:
    """Return how many members there are to judge: some examples are drawn twice, or the time ended."""
    used = int((membership.count_training(world, trained.journal.rounds) > 0).sum())
    return min(wanted, max(2, used))


def _too_long(plan: ShadowPlan | None, cost: float, seconds: float) -> str:
    share = f"the {seconds:.0f} s for membership attacks"
    if plan is None:
        return f"{share} were over; give more minutes"
    return f"its {plan.count} shadow models take about {cost:.0f} s, more than is left of {share}; give more minutes"


def _attacks() -> dict[str, MembershipAttack[Any]]:
    return {name: own.make(own.config()) for name, own in registry.methods("membership").items()}


def _cost(plan: ShadowPlan, trained: Trained) -> float:
    return plan.count * trained.summary.rounds * trained.summary.seconds_a_round


def _judge(
    world: World,
    trained: Trained,
    most: int,
    attack: MembershipAttack[Any],
    record: MembershipRecord,
    cases: dict[Target, Case],
    known: dict[ShadowPlan, tuple[Shadow, ...]],
    risks: Risks,
) -> MembershipRecord:
    if attack.target not in cases:
        cases[attack.target] = _case(world, trained, most, attack.target)
    case, plan, seed = cases[attack.target], attack.plan(), world.scenario.seed
    if plan is not None and plan not in known:
        known[plan] = shadows(case.observation, plan, seed, lambda _number: None)
    seen = replace(case.observation, shadows={plan: known[plan]} if plan is not None else {})
    begin = time.perf_counter()
    scores = attack(seen, seeding.generator(seed, f"membership attack {record.label}"))
    seconds = time.perf_counter() - begin
    source = np.random.default_rng(seeding.derive(seed, "bootstrap"))
    for own in risks.groups:
        if names := own.of(case.observation.candidates):
            of_attack = risks.found.setdefault(own.name, {})
            of_attack[record.label] = aucs(scores.double().numpy(), case.is_member.numpy(), names, source)
    return membership.judged(record, case, scores, world, seconds)


def _case(world: World, trained: Trained, most: int, target: Target) -> Case:
    if target == "model":
        return membership.of_model(world, trained.journal, most)
    size = max(1, min(len(truth.private[0]) for truth in trained.truths))
    watched = -(-most // size)
    journal = replace(trained.journal, entries=trained.journal.entries[:watched])
    return membership.of_updates(world, journal, trained.truths[:watched], most)
