"""Try each defense that fits until the time is over: what it stops and what it costs.

All defenses, and the undefended client as their control, get attacks with the same iterations on the same batches, and
train for the same number of rounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from fedsim.audit import members
from fedsim.audit.arms import ArmAuditor
from fedsim.audit.book import AuditJournal
from fedsim.audit.clock import limit
from fedsim.audit.evidence import fewest
from fedsim.audit.foreign import reason
from fedsim.audit.inspecting import enough
from fedsim.audit.record import AuditArm, DefenseCost
from fedsim.audit.subject import Checked
from fedsim.audit.training import TrainedClient, accuracy_lost
from fedsim.audit.worlds import DefenseSetting, reads_steps, settings_of, world_of
from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.scenario.world import World

_TRIALS = 10  # planned ones; cheap defenses leave time for more
_FOR_THE_ATTACK = 0.6  # share of a trial
_IMAGES = 4
_LEAST_SECONDS = 1.0
_STRONGER: dict[
    str, tuple[tuple[tuple[str, Any], ...], ...]
] = {  # besides the defaults, which are the papers' settings
    "gradient-noise": tuple((("scale", scale), ("relative", True)) for scale in (0.1, 1.0, 10.0)),
    "pruning": ((("rate", 0.99),), (("rate", 0.999),)),
}


def try_defenses(book: AuditJournal, subject: Checked, without: TrainedClient) -> None:
    """Attack the control, then attack and train the client with one more defense after the other.

    Args:
        book: holds the arms of the client as it is.
        subject: the audited subject.
        without: the client as it was trained without further defenses.
    """
    auditor = ArmAuditor.of(book, subject)
    works = [arm for arm in book.record.client if not arm.failure]
    worst = max(works, key=lambda arm: (arm.recovered.value if arm.recovered else 0.0, -arm.batch_size)).batch_size
    fitting, unfit = _fitting(auditor, worst)
    book.keep(unfit=unfit)
    seconds = max(book.clock.left / (min(len(fitting), _TRIALS) + 1), _LEAST_SECONDS)
    most = max(enough(worst, _IMAGES), fewest(book.record.policy.max_recognisable, book.plan.scoring.confidence))
    bare = world_of(subject, book.plan, worst)
    iterations = auditor.inspector.iterations(bare, _FOR_THE_ATTACK * seconds)
    defender = _Defender(auditor, without, book.plan.updates or most, iterations)
    control = AuditArm(kind="control", name=f"control, batch {worst}", batch_size=worst)
    book.put(auditor.attack(control, bare, defender.most, iterations, seconds))
    for setting in fitting:
        if book.clock.left < _LEAST_SECONDS:
            book.keep(not_tried=(*book.record.not_tried, setting.label))
        else:
            defender.attempt(setting, worst, min(2 * seconds, book.clock.left))


def _fitting(auditor: ArmAuditor, size: int) -> tuple[list[DefenseSetting], tuple[tuple[str, str], ...]]:
    """Return the defenses that fit, and why others do not.

    Defenses with a guarantee come first, then those that change only what is sent, which are the cheapest.
    """
    used = {str(defense.get("name")) for defense in auditor.book.record.client_defenses}
    fitting: list[tuple[bool, bool, str, DefenseSetting]] = []
    unfit: list[tuple[str, str]] = []
    for setting in (each for name in registry.entries("defense") if name not in used for each in _settings(name)):
        try:
            sampled, world = _sample(auditor, size, setting)
        except Exception as error:
            unfit.append((setting.label, reason(error)))
        else:
            fitting.append((not world.facts.client_mechanisms, reads_steps(sampled), sampled.label, sampled))
    return [setting for *_, setting in sorted(fitting, key=lambda one: one[:-1])], tuple(unfit)


def _settings(name: str) -> list[DefenseSetting]:
    """Return a defense with its defaults, then with stronger settings."""
    return [DefenseSetting(name), *(DefenseSetting(name, options) for options in _STRONGER.get(name, ()))]


def _sample(auditor: ArmAuditor, size: int, setting: DefenseSetting) -> tuple[DefenseSetting, World]:
    """Return the setting with a sampling that fits it, and its world."""
    try:
        return setting, auditor.world(size, setting)
    except FedsimError:
        setting = replace(setting, sampling="poisson")
        return setting, auditor.world(size, setting)


@dataclass(frozen=True)
class _Defender:
    """Tries defenses one by one against the same attacks on the same batches."""

    auditor: ArmAuditor
    without: TrainedClient
    most: int
    iterations: int

    def attempt(self, setting: DefenseSetting, batch_size: int, seconds: float) -> AuditArm:
        """Attack, then train, with one more defense."""

        def ask(arm: AuditArm) -> None:
            with limit(seconds):
                world = world_of(self.auditor.subject, self.auditor.book.plan, batch_size, setting)
                share = _FOR_THE_ATTACK * seconds
                self._train(self.auditor.attack(arm, world, self.most, self.iterations, share), setting)

        arm = AuditArm(
            kind="defense",
            name=setting.label,
            batch_size=batch_size,
            sampling=setting.sampling,
            settings=settings_of(setting),
        )
        return self.auditor.attempt(arm, ask)

    def _train(self, arm: AuditArm, setting: DefenseSetting) -> AuditArm:
        """Train with the defense for as many rounds as without it, and compare."""
        book, before = self.auditor.book, self.without.summary
        book.tell(f"{arm.name}: trains for {before.rounds} rounds")
        arm, trained = self.auditor.train(arm, self.auditor.world(before.batch_size, setting), before.rounds, math.inf)
        arm, _ = self.auditor.judge_members(arm, trained, members.attacks_without_shadows())
        cost = DefenseCost(
            accuracy_loss=accuracy_lost(self.without.correct, trained.correct, book.plan.seed),
            loss_change=trained.summary.loss - before.loss,
            slowdown=trained.summary.seconds_a_round / before.seconds_a_round,
        )
        return book.note(arm.model_copy(update={"cost": cost}))
