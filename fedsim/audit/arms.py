"""Steps of an audit arm: attacks on updates, training, guarantee tests and membership inference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from fedsim.audit import members
from fedsim.audit.foreign import reason
from fedsim.audit.record import AuditArm
from fedsim.audit.session import AuditSession
from fedsim.audit.single_client import check, world_of
from fedsim.audit.subject import CheckedSubject
from fedsim.audit.training import TrainedClient, train
from fedsim.audit.update_attacks import UpdateAttacker, updates
from fedsim.core.errors import FedsimError
from fedsim.core.time_budget import TimeBudget, TimeBudgetExceeded, interrupt_on_timeout
from fedsim.experiment.runner import guarantees
from fedsim.questions.membership.question import Cases, MembershipChoice
from fedsim.record import AttackFinding
from fedsim.scenario import Choice
from fedsim.scenario.world import World

_FOR_MEMBERS = 0.25  # share of the remaining time if defenses follow
_ALL = 0.95  # the same share if no defenses follow


@dataclass
class ArmAuditor:
    """Attacks, trains and tests audit arms.

    Attributes:
        book: journal of the audit.
        subject: audited client.
        inspector: attacks the updates of all arms.
    """

    session: AuditSession
    subject: CheckedSubject
    inspector: UpdateAttacker

    @classmethod
    def of(cls, book: AuditSession, subject: CheckedSubject) -> ArmAuditor:
        """Return an auditor; its attacks have the knowledge that the plan grants."""
        return cls(book, subject, UpdateAttacker(book.plan.knows, book.tell, groups=subject.groups))

    def world(self, arm: AuditArm) -> World:
        """Return the world of an arm.

        Raises:
            FedsimError: the batch size or the defense does not fit; the message states the reason.
        """
        tables = [{"name": arm.defense, **arm.settings}] if arm.defense else []
        world = world_of(self.subject, self.session.plan, arm.batch_size, tables, arm.sampling)
        check(world, self.subject)
        return world

    def attempt(self, arm: AuditArm, ask: Callable[[AuditArm], object]) -> AuditArm:
        """Call `ask` on an arm and return the arm with its results so far.

        An exception or timeout of `ask` becomes the arm's `failure`.
        """
        begin, failure = self.session.clock.used, ""
        try:
            ask(arm)
        except TimeBudgetExceeded:
            failure = f"its {self.session.clock.used - begin:.0f} s were not enough"
        except Exception as error:
            failure = reason(error)
        known = next((earlier_arm for earlier_arm in self.session.record.arms if earlier_arm.name == arm.name), arm)
        spent = self.session.clock.used - begin
        return self.session.store_arm(known.model_copy(update={"failure": failure, "seconds": spent}))

    def attack(self, arm: AuditArm, world: World, limit: int, iterations: int, seconds: float) -> AuditArm:
        """Attack updates of an arm, continuing after the updates already attacked."""
        work, allowed = self.session.work(arm), self.session.record.policy.max_recovered
        finding = self.inspector.inspect(world, updates(world), work, limit, iterations, seconds, allowed, arm.victims)
        return self._note_finding(arm, finding)

    def attack_again(self, arm: AuditArm, world: World, iterations: int, seconds: float) -> AuditArm:
        """Attack the updates of an arm again with more iterations; updates beyond the time limit keep their guess."""
        work, limit = self.session.work(arm), len(arm.victims)
        longer = self.inspector.inspect(world, updates(world), work, limit, iterations, seconds).victims
        return self._note_finding(arm, self.inspector.finding(world, (*longer, *arm.victims[len(longer) :])))

    def _note_finding(self, arm: AuditArm, finding: AttackFinding) -> AuditArm:
        """Replace the arm's attack finding and note the arm in the journal."""
        return self.session.note(arm.model_copy(update={"findings": arm.answers}).with_findings([finding], {}))

    def train(self, arm: AuditArm, world: World, rounds: int, seconds: float) -> tuple[AuditArm, TrainedClient]:
        """Train an arm for `rounds` rounds, or fewer if the time ends, and state its guarantees."""
        trained = train(world, rounds, seconds)
        stated = guarantees(world, trained.evidence.journal.rounds)
        return arm.model_copy(update={"training": trained.summary, "guarantees": stated}), trained

    def test_guarantees(self, arm: AuditArm, trained: TrainedClient, seconds: float) -> AuditArm:
        """Test the stated guarantees of a training with canaries, if any; a note records why a test failed."""
        if not arm.guarantees:
            return arm
        question, evidence = Choice(name="audit").make("question"), replace(trained.evidence, guarantees=arm.guarantees)
        self.session.tell("tests the stated epsilon with canaries")
        try:
            question.check(evidence.world)
            with interrupt_on_timeout(TimeBudget.with_wall_limit(seconds)):
                return self.session.note(arm.with_findings(list(question.run(evidence, self.session.work(arm))), {}))
        except TimeBudgetExceeded:
            why = f"its {seconds:.0f} s were not enough"
        except FedsimError as error:
            why = str(error).rstrip(".")
        self.session.keep(
            notes=(*self.session.record.notes, f"The stated epsilon was not tested with canaries: {why}.")
        )
        return arm

    def judge_members(
        self, arm: AuditArm, trained: TrainedClient, attacks: Sequence[MembershipChoice]
    ) -> tuple[AuditArm, Cases | None]:
        """Run membership attacks on a trained arm and return the arm with its cases.

        The cases are None, and nothing runs, if the subject has paired views or too few candidates.
        """
        if self.subject.subject.views is not None or members.count_candidates(trained) < members.FEWEST:
            return arm, None
        cases = members.cases_of(trained, self.session.work(arm))
        seconds = self.session.clock.remaining_seconds * (_FOR_MEMBERS if self.session.plan.defend else _ALL)
        findings = list(members.judge_within(seconds, attacks, cases, trained, self.session.tell))
        return arm.with_findings(findings, cases.work.items), cases
