"""What an audit asks of an arm: what is in its updates, what it learns, and who was a member."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from fedsim.audit import members
from fedsim.audit.clock import OutOfTime, limit
from fedsim.audit.foreign import reason
from fedsim.audit.record import AuditArm
from fedsim.audit.session import AuditJournal
from fedsim.audit.single_client import check, world_of
from fedsim.audit.subject import Checked
from fedsim.audit.training import TrainedClient, train
from fedsim.audit.update_attacks import Inspector, updates
from fedsim.core.errors import FedsimError
from fedsim.experiment.runner import guarantees
from fedsim.questions.membership.question import Cases, MembershipChoice
from fedsim.record import AttackFinding
from fedsim.scenario import Choice
from fedsim.scenario.world import World

_FOR_MEMBERS = 0.25  # share of the remaining time, where defenses follow
_ALL = 0.95  # where none follow


@dataclass
class ArmAuditor:
    """Attacks, trains and questions arms one by one.

    Attributes:
        book: of the audit.
        subject: its client.
        inspector: attacks the updates of all of them.
    """

    book: AuditJournal
    subject: Checked
    inspector: Inspector

    @classmethod
    def of(cls, book: AuditJournal, subject: Checked) -> ArmAuditor:
        """Return one whose attacks know what the plan grants."""
        return cls(book, subject, Inspector(book.plan.knows, book.tell, groups=subject.groups))

    def world(self, arm: AuditArm) -> World:
        """Return the world of an arm, if its batch size and defense fit.

        Raises:
            FedsimError: they do not; the message says why.
        """
        tables = [{"name": arm.defense, **arm.settings}] if arm.defense else []
        world = world_of(self.subject, self.book.plan, arm.batch_size, tables, arm.sampling)
        check(world, self.subject)
        return world

    def attempt(self, arm: AuditArm, ask: Callable[[AuditArm], object]) -> AuditArm:
        """Ask about an arm, and return all that is known then; what ends it early is its failure."""
        begin, failure = self.book.clock.used, ""
        try:
            ask(arm)
        except OutOfTime:
            failure = f"its {self.book.clock.used - begin:.0f} s were not enough"
        except Exception as error:
            failure = reason(error)
        known = next((one for one in self.book.record.arms if one.name == arm.name), arm)
        spent = self.book.clock.used - begin
        return self.book.put(known.model_copy(update={"failure": failure, "seconds": spent}))

    def attack(self, arm: AuditArm, world: World, most: int, iterations: int, seconds: float) -> AuditArm:
        """Attack updates of an arm, after those that were attacked before."""
        work, allowed = self.book.work(arm), self.book.record.policy.max_recognisable
        finding = self.inspector.inspect(world, updates(world), work, most, iterations, seconds, allowed, arm.victims)
        return self._noted(arm, finding)

    def attack_again(self, arm: AuditArm, world: World, iterations: int, seconds: float) -> AuditArm:
        """Attack updates of an arm anew, with more iterations; those for which no time is left keep their guess."""
        work, most = self.book.work(arm), len(arm.victims)
        longer = self.inspector.inspect(world, updates(world), work, most, iterations, seconds).victims
        return self._noted(arm, self.inspector.finding(world, (*longer, *arm.victims[len(longer) :])))

    def _noted(self, arm: AuditArm, finding: AttackFinding) -> AuditArm:
        """Put a finding in the place of the arm's attacks."""
        return self.book.note(arm.model_copy(update={"findings": arm.answers}).with_findings([finding], {}))

    def train(self, arm: AuditArm, world: World, rounds: int, seconds: float) -> tuple[AuditArm, TrainedClient]:
        """Train an arm for so many rounds, or as many as fit the time."""
        trained = train(world, rounds, seconds)
        stated = guarantees(world, trained.evidence.journal.rounds)
        return arm.model_copy(update={"training": trained.summary, "guarantees": stated}), trained

    def test_guarantees(self, arm: AuditArm, trained: TrainedClient, seconds: float) -> AuditArm:
        """Have canaries test what a training guarantees, if anything; the record notes why they could not."""
        if not arm.guarantees:
            return arm
        question, evidence = Choice(name="audit").make("question"), replace(trained.evidence, guarantees=arm.guarantees)
        self.book.tell("tests the stated epsilon with canaries")
        try:
            question.check(evidence.world)
            with limit(seconds):
                return self.book.note(arm.with_findings(list(question.ask(evidence, self.book.work(arm))), {}))
        except OutOfTime:
            why = f"its {seconds:.0f} s were not enough"
        except FedsimError as error:
            why = str(error).rstrip(".")
        self.book.keep(notes=(*self.book.record.notes, f"The stated epsilon was not tested with canaries: {why}."))
        return arm

    def judge_members(
        self, arm: AuditArm, trained: TrainedClient, attacks: Sequence[MembershipChoice]
    ) -> tuple[AuditArm, Cases | None]:
        """Have membership attacks judge a training, and return whom; None where too few can be judged alone."""
        if self.subject.subject.views is not None or members.count_candidates(trained) < members.FEWEST:
            return arm, None
        cases = members.cases_of(trained, self.book.work(arm))
        seconds = self.book.clock.left * (_FOR_MEMBERS if self.book.plan.defend else _ALL)
        findings = list(members.judge_within(seconds, attacks, cases, trained, self.book.tell))
        return arm.with_findings(findings, cases.work.items), cases
