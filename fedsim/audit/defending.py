"""Evaluation of defenses within the time limit: attack success and cost of each defense that fits.

All defenses, and the undefended client as control, face attacks with the same number of iterations on the same batches,
and train for the same number of rounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

from fedsim.audit import members
from fedsim.audit.arms import ArmAuditor
from fedsim.audit.evidence import fewest
from fedsim.audit.foreign import reason
from fedsim.audit.record import AuditArm, DefenseCost
from fedsim.audit.session import AuditSession
from fedsim.audit.single_client import world_of
from fedsim.audit.subject import CheckedSubject
from fedsim.audit.training import TrainedClient, accuracy_lost
from fedsim.audit.update_attacks import enough
from fedsim.audit.verdict import control_failed
from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import Defense
from fedsim.core.time_budget import TimeBudget, interrupt_on_timeout
from fedsim.scenario import Choice
from fedsim.scenario.world import World

_TRIALS = 10  # planned trials; cheap defenses leave time for more
_FOR_THE_ATTACK = 0.6  # share of a trial's time
_IMAGES = 4
_LEAST_SECONDS = 1.0
_STRONGER: dict[str, tuple[dict[str, Any], ...]] = {  # in addition to the defaults, which are the papers' settings
    "gradient-noise": tuple({"scale": scale, "relative": True} for scale in (0.1, 1.0, 10.0)),
    "pruning": ({"rate": 0.99}, {"rate": 0.999}),
}


def try_defenses(book: AuditSession, subject: CheckedSubject, undefended: TrainedClient) -> None:
    """Attack the control, then attack and train the client with each additional defense in turn.

    If nothing is recovered from the control, no defense can be judged, so none is evaluated.

    Args:
        book: journal with the arms of the undefended client.
        subject: audited subject.
        undefended: training of the client without further defenses.
    """
    auditor = ArmAuditor.of(book, subject)
    works = [arm for arm in book.record.client if not arm.failure]
    worst = max(
        works, key=lambda arm: (arm.recovered_share.value if arm.recovered_share else 0.0, -arm.batch_size)
    ).batch_size
    fitting, unfit = _fitting_arms(auditor, worst)
    book.keep(unfit=unfit)
    seconds = max(book.clock.remaining_seconds / (min(len(fitting), _TRIALS) + 1), _LEAST_SECONDS)
    limit = max(enough(worst, _IMAGES), fewest(book.record.policy.max_recovered, book.plan.scoring.confidence))
    bare = world_of(subject, book.plan, worst)
    iterations = auditor.inspector.iterations(bare, _FOR_THE_ATTACK * seconds)
    defender = _Defender(auditor, undefended, book.plan.updates or limit, iterations)
    sampling = subject.subject.sampling
    control = AuditArm(kind="control", name=f"control, batch {worst}", batch_size=worst, sampling=sampling)
    book.store_arm(auditor.attack(control, bare, defender.max_updates, iterations, seconds))
    if control_failed(book.record):
        book.keep(not_tried=tuple(arm.name for arm in fitting))
        return
    for arm in fitting:
        if book.clock.remaining_seconds < _LEAST_SECONDS:
            book.keep(not_tried=(*book.record.not_tried, arm.name))
        else:
            auditor.attempt(arm, partial(defender.ask, seconds=min(2 * seconds, book.clock.remaining_seconds)))


def _fitting_arms(auditor: ArmAuditor, size: int) -> tuple[list[AuditArm], tuple[tuple[str, str], ...]]:
    """Return an arm per fitting defense and setting (defaults and stronger settings), and why others do not fit.

    Baselines are left out. Defenses with a guarantee come first, then cheap defenses that change only the sent update.
    """
    used = {str(defense.get("name")) for defense in auditor.session.record.client_defenses}
    fitting: list[tuple[bool, bool, str, AuditArm]] = []
    unfit: list[tuple[str, str]] = []
    methods = registry.methods("defense", Defense).items()
    for name in (name for name, entry in methods if entry.tier != "baseline" and name not in used):
        for options in ({}, *_STRONGER.get(name, ())):
            label = " ".join([name, *(f"{key}={value}" for key, value in options.items())])
            try:
                settings = Choice(name=name, settings=options).make("defense").config.model_dump(mode="json")
                arm = AuditArm(kind="defense", name=label, defense=name, settings=settings, batch_size=size)
                arm = arm.model_copy(update={"sampling": auditor.subject.subject.sampling})
                arm, world = _sample(auditor, arm)
            except Exception as error:
                unfit.append((label, reason(error)))
            else:
                changes = _reads_steps(world.stack.defenses_as_written[-1])
                fitting.append((not world.facts.client_mechanisms, changes, label, arm))
    return [arm for *_, arm in sorted(fitting, key=lambda entry: entry[:-1])], tuple(unfit)


def _reads_steps(defense: Defense[Any]) -> bool:
    """Return whether a defense changes local training, not only the sent update."""
    moments = ("prepare", "on_batch", "on_examples", "loss")
    return defense.needs_step or any(map(defense.overrides, moments))


def _sample(auditor: ArmAuditor, arm: AuditArm) -> tuple[AuditArm, World]:
    """Return the arm and its world, with Poisson sampling if the defense rejects the subject's sampling."""
    try:
        return arm, auditor.world(arm)
    except FedsimError:
        arm = arm.model_copy(update={"sampling": "poisson"})
        return arm, auditor.world(arm)


@dataclass(frozen=True)
class _Defender:
    """Attacks and trains defended arms, all with the same attacks on the same batches.

    Attributes:
        auditor: runs the attacks and the trainings.
        without: training of the client without further defenses.
        max_updates: largest number of attacked updates.
        iterations: iterations per search.
    """

    auditor: ArmAuditor
    without: TrainedClient
    max_updates: int
    iterations: int

    def ask(self, arm: AuditArm, seconds: float) -> AuditArm:
        """Attack an arm, train it for as many rounds as without the defense, and record the cost of the defense.

        Raises:
            OutOfTime: the time of the trial is over.
        """
        auditor, before = self.auditor, self.without.summary
        with interrupt_on_timeout(TimeBudget.with_wall_limit(seconds)):
            arm = auditor.attack(arm, auditor.world(arm), self.max_updates, self.iterations, _FOR_THE_ATTACK * seconds)
            auditor.session.tell(f"{arm.name}: trains for {before.rounds} rounds")
            world = auditor.world(arm.model_copy(update={"batch_size": before.batch_size}))
            arm, trained = auditor.train(arm, world, before.rounds, math.inf)
            arm, _ = auditor.judge_members(arm, trained, members.attacks_without_shadows())
            cost = DefenseCost(
                accuracy_loss=accuracy_lost(self.without.correct, trained.correct, auditor.session.plan.seed),
                loss_change=trained.summary.loss - before.loss,
                slowdown=trained.summary.seconds_a_round / before.seconds_a_round,
            )
            return auditor.session.note(arm.model_copy(update={"cost": cost}))
