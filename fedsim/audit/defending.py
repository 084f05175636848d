"""Find members, then try each defense that fits until the time is over: what it stops and what it costs.

All defenses, and the undefended client as their control, get attacks with the same iterations on the same batches, and
train for the same number of rounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedsim.audit import members
from fedsim.audit.book import AuditJournal
from fedsim.audit.clock import OutOfTime, limit
from fedsim.audit.evidence import fewest
from fedsim.audit.foreign import reason
from fedsim.audit.groups import CLASS, class_name
from fedsim.audit.inspecting import Inspector, enough, updates
from fedsim.audit.record import Trial
from fedsim.audit.subject import Checked
from fedsim.audit.training import Trained, accuracy_lost, trained
from fedsim.audit.worlds import ROUNDS, Setting, check, reads_steps, settings_of, world_of
from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.experiment.runner import guarantees
from fedsim.metrics.groups import rates
from fedsim.metrics.success import Rule
from fedsim.record import GroupRisk, ItemScore, MembershipRecord
from fedsim.scenario.world import World

_FOR_MEMBERS = 0.25  # share of the remaining time, where defenses follow
_ALL = 0.95  # where none follow
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


def defend(book: AuditJournal, subject: Checked, largest: int) -> None:
    """Train, run membership attacks, then try the defenses.

    Args:
        book: holds the inspections of the client as it is.
        subject: the audited subject.
        largest: batch size of the training.
    """
    training = _baseline(book, subject, largest)
    if not book.plan.defend:
        return
    worst = max(book.record.inspections, key=lambda own: (own.recovered or 0.0, -own.batch_size)).batch_size
    fitting, unfit = _fitting(book, subject, worst)
    book.keep(unfit=unfit)
    seconds = max(book.clock.left / (min(len(fitting), _TRIALS) + 1), _LEAST_SECONDS)
    allowed, confidence = book.record.policy.max_recognisable, book.plan.scoring.confidence
    most = book.plan.updates or max(enough(worst, _IMAGES), fewest(allowed, confidence))
    bare = world_of(subject, book.plan, worst, Setting())
    inspector = Inspector(book.plan.knows, book.arrays, book.tell)
    iterations = inspector.iterations(bare, _FOR_THE_ATTACK * seconds)
    name = f"control, batch {worst}"
    control = inspector.inspect(bare, updates(bare), most, iterations, seconds, name, allowed)
    book.keep(control=control)
    defender = _Defender(book, subject, inspector, training, worst, most, iterations)
    for setting in fitting:
        if book.clock.left < _LEAST_SECONDS:
            book.keep(not_tried=(*book.record.not_tried, setting.label))
            continue
        trial = defender.attempt(setting, min(2 * seconds, book.clock.left))
        book.keep(trials=(*book.record.trials, trial))


def _baseline(book: AuditJournal, subject: Checked, batch_size: int) -> Trained:
    """Train without further defenses, and find members."""
    world = world_of(subject, book.plan, batch_size, Setting())
    book.tell("trains for a few rounds, without further defenses")
    training = trained(world, ROUNDS, book.clock.left * _FOR_MEMBERS / 2)
    risks = members.Risks(subject.groups)
    found = _judge(book, subject, world, training, risks, with_shadows=True)
    stated = guarantees(world, training.journal.rounds)
    book.keep(
        training=training.summary,
        membership=found,
        guarantees=stated,
        by_class=_compared(book, found, risks, CLASS),
        by_group=_compared(book, found, risks, book.record.group) if book.record.group else {},
    )
    return training


def _fitting(book: AuditJournal, subject: Checked, size: int) -> tuple[list[Setting], tuple[tuple[str, str], ...]]:
    """Return the defenses that fit, and why others do not.

    Defenses with a guarantee come first, then those that change only what is sent, which are the cheapest.
    """
    own = {str(defense.get("name")) for defense in book.record.own_defenses}
    fitting: list[tuple[bool, bool, str, Setting]] = []
    unfit: list[tuple[str, str]] = []
    for setting in (each for name in registry.entries("defense") if name not in own for each in _settings(name)):
        try:
            found, world = _sample(book, subject, size, setting)
        except Exception as error:
            unfit.append((setting.label, reason(error)))
        else:
            fitting.append((not world.facts.client_mechanisms, reads_steps(found), found.label, found))
    return [own[-1] for own in sorted(fitting, key=lambda own: own[:-1])], tuple(unfit)


def _settings(name: str) -> list[Setting]:
    """Return a defense with its defaults, then with stronger settings."""
    return [Setting(name), *(Setting(name, options) for options in _STRONGER.get(name, ()))]


def _sample(book: AuditJournal, subject: Checked, size: int, setting: Setting) -> tuple[Setting, World]:
    """Return the setting with a sampling that fits it, and its world."""
    try:
        world = world_of(subject, book.plan, size, setting)
        check(world, subject)
    except FedsimError:
        setting = replace(setting, sampling="poisson")
        world = world_of(subject, book.plan, size, setting)
        check(world, subject)
    return setting, world


@dataclass(frozen=True)
class _Defender:
    """Tries defenses one by one against the same attacks on the same batches."""

    book: AuditJournal
    subject: Checked
    inspector: Inspector
    without: Trained
    batch_size: int
    most: int
    iterations: int

    def attempt(self, setting: Setting, seconds: float) -> Trial:
        """Attack, then train, with one more defense."""
        trial = Trial(name=setting.label, sampling=setting.sampling, settings=settings_of(setting))
        begin = self.book.clock.used
        try:
            with limit(seconds):
                world = world_of(self.subject, self.book.plan, self.batch_size, setting)
                allowed = self.book.record.policy.max_recognisable
                label = f"{setting.label}, batch {self.batch_size}"
                found = self.inspector.inspect(
                    world, updates(world), self.most, self.iterations, _FOR_THE_ATTACK * seconds, label, allowed
                )
                trial = trial.model_copy(update={"inspection": found})
                return self._train(trial, setting)
        except OutOfTime:
            return trial.model_copy(update={"failure": f"its {self.book.clock.used - begin:.0f} s were not enough"})
        except Exception as error:
            return trial.model_copy(update={"failure": reason(error)})

    def _train(self, trial: Trial, setting: Setting) -> Trial:
        """Train with the defense for as many rounds as without it, and compare."""
        subject, plan, before = self.subject, self.book.plan, self.without.summary
        world = world_of(subject, plan, before.batch_size, setting)
        check(world, subject)
        self.book.tell(f"{trial.name}: trains for {before.rounds} rounds")
        after = trained(world, before.rounds, math.inf)
        return trial.model_copy(
            update={
                "training": after.summary,
                "membership": _judge(self.book, subject, world, after, members.Risks(), with_shadows=False),
                "guarantees": guarantees(world, after.journal.rounds),
                "accuracy_loss": accuracy_lost(self.without.correct, after.correct, plan.seed),
                "loss_change": after.summary.loss - before.loss,
                "slowdown": after.summary.seconds_a_round / before.seconds_a_round,
            }
        )


def _compared(
    book: AuditJournal, found: Sequence[MembershipRecord], risks: members.Risks, group: str
) -> dict[str, tuple[GroupRisk, ...]]:
    """Return the risk of each group: by the best membership attack, and to be recovered from an update."""
    scoring, of_attacks = book.plan.scoring, risks.found.get(group, {})
    rule = Rule.of(scoring.metric, scoring.threshold)
    every = [item for own in book.record.inspections for victim in own.victims for item in victim.scores]
    names = [_class_of(item) if group == CLASS else item.group for item in every]
    items = [(name, rule.has_succeeded(item)) for name, item in zip(names, every, strict=True) if name is not None]
    known = {f"{book.record.noun}s recovered": rates(items, scoring.confidence)} if items else {}
    best = max(
        (own for own in found if own.summary is not None and of_attacks.get(own.label)),
        key=lambda own: own.summary.auc.value if own.summary else 0.0,
        default=None,
    )
    return known if best is None else {**known, f"AUC of {best.label}": of_attacks[best.label]}


def _class_of(item: ItemScore) -> str | None:
    return None if item.label is None else class_name(item.label)


def _judge(
    book: AuditJournal,
    subject: Checked,
    world: World,
    training: Trained,
    risks: members.Risks,
    *,
    with_shadows: bool,
) -> tuple[MembershipRecord, ...]:
    wanted = _candidates(subject, training.summary.batch_size)
    if wanted < members.FEWEST:
        return ()
    seconds = book.clock.left * (_FOR_MEMBERS if book.plan.defend else _ALL)
    return members.judged(world, training, seconds, book.tell, wanted, with_shadows=with_shadows, risks=risks)


def _candidates(subject: Checked, batch_size: int) -> int:
    """Return how many members can be judged: as many as a training touches."""
    touched = ROUNDS * batch_size * subject.subject.local_steps
    return min(touched, members.candidates(subject.dataset.train, subject.dataset.test))
