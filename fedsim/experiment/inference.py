"""The membership attacks of an arm."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fedsim.core import seeding
from fedsim.core.errors import reason
from fedsim.core.hooks import MembershipAttack
from fedsim.core.types import Shadow, ShadowPlan, Target, Truth
from fedsim.experiment.progress import RunInProgress
from fedsim.federation.journal import Journal
from fedsim.record import MembershipRecord
from fedsim.scenario import MembershipChoice
from fedsim.scenario.world import World
from fedsim.threat import membership


@dataclass
class Inference:
    """The membership attacks of an arm. Candidates and shadow models are made once, when the first attack asks."""

    run: RunInProgress
    world: World
    journal: Journal
    truths: Sequence[Truth]
    _cases: dict[Target, membership.Case] = field(default_factory=dict)
    _shadows: dict[tuple[Target, ShadowPlan], tuple[Shadow, ...]] = field(default_factory=dict)

    def record(self, choice: MembershipChoice) -> MembershipRecord:
        """Run one attack and score it; why it failed stands in the record."""
        attack: MembershipAttack[Any] = choice.make("membership")
        record = MembershipRecord(
            label=choice.label or choice.name,
            name=choice.name,
            settings=choice.settings,
            target=attack.target,
            members=0,
            non_members=0,
        )
        try:
            record = self._judge(record, attack)
        except Exception as error:
            record = record.model_copy(update={"failure": reason(error)})
        self.run.watcher.judged(record)
        return record

    def _judge(self, record: MembershipRecord, attack: MembershipAttack[Any]) -> MembershipRecord:
        scenario, case = self.world.scenario, self._case(attack.target)
        seen = replace(case.observation, shadows=self._train(record.label, attack, case))
        begin = time.perf_counter()
        scores = attack(seen, seeding.generator(scenario.seed, f"membership attack {record.label}"))
        seconds = time.perf_counter() - begin
        self.run.look_up()
        return membership.judged(record, case, scores, self.world, seconds)

    def _case(self, target: Target) -> membership.Case:
        if target not in self._cases:
            self._cases[target] = (
                membership.of_model(self.world, self.journal)
                if target == "model"
                else membership.of_updates(self.world, self.journal, self.truths)
            )
        return self._cases[target]

    def _train(
        self, label: str, attack: MembershipAttack[Any], case: membership.Case
    ) -> dict[ShadowPlan, tuple[Shadow, ...]]:
        """Return the shadow models that an attack asks for, and no others."""
        plan = attack.plan()
        if plan is None:
            return {}

        def on_shadow(number: int) -> None:
            self.run.watcher.shadow(label, number, plan.count)
            self.run.look_up()

        key = (attack.target, plan)
        if key not in self._shadows:
            seed = self.world.scenario.seed
            self._shadows[key] = membership.shadows(case.observation, plan, seed, on_shadow)
        return {plan: self._shadows[key]}
