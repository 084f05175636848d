"""Find members, then try each defense that fits until the time is over: what it stops and what it costs.

All defenses, and the undefended client as their control, get attacks with the same iterations on the same batches, and
train for the same number of rounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from fedsim.audit import members
from fedsim.audit.book import AuditJournal
from fedsim.audit.clock import OutOfTime, limit
from fedsim.audit.evidence import fewest
from fedsim.audit.foreign import reason
from fedsim.audit.groups import CLASSES, ExampleGroups, class_name, compare
from fedsim.audit.inspecting import Inspector, enough, updates
from fedsim.audit.record import Trial
from fedsim.audit.subject import Checked
from fedsim.audit.training import TrainedClient, accuracy_lost, train
from fedsim.audit.worlds import ROUNDS, DefenseSetting, check, reads_steps, settings_of, world_of
from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.experiment.runner import guarantees
from fedsim.metrics.groups import rates
from fedsim.questions.membership import Cases
from fedsim.record import Finding, ItemScore
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
    worst = max(book.record.inspections, key=lambda one: (one.recovered or 0.0, -one.batch_size)).batch_size
    fitting, unfit = _fitting(book, subject, worst)
    book.keep(unfit=unfit)
    seconds = max(book.clock.left / (min(len(fitting), _TRIALS) + 1), _LEAST_SECONDS)
    allowed, confidence = book.record.policy.max_recognisable, book.plan.scoring.confidence
    most = book.plan.updates or max(enough(worst, _IMAGES), fewest(allowed, confidence))
    bare = world_of(subject, book.plan, worst, DefenseSetting())
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


def _baseline(book: AuditJournal, subject: Checked, batch_size: int) -> TrainedClient:
    """Train without further defenses, and find members."""
    world = world_of(subject, book.plan, batch_size, DefenseSetting())
    book.tell("trains for a few rounds, without further defenses")
    training = train(world, ROUNDS, book.clock.left * _FOR_MEMBERS / 2)
    findings, cases = _judge(book, subject, training, with_shadows=True)
    book.keep(training=training.summary, guarantees=guarantees(world, training.evidence.journal.rounds))
    compared: list[Finding] = []
    for groups in subject.groups:
        compared += _compare(book, groups)
        compared += members.compare_groups(findings, cases, groups) if cases else ()
    book.add((*findings, *compared), cases.work.items if cases else {})
    return training


def _fitting(
    book: AuditJournal, subject: Checked, size: int
) -> tuple[list[DefenseSetting], tuple[tuple[str, str], ...]]:
    """Return the defenses that fit, and why others do not.

    Defenses with a guarantee come first, then those that change only what is sent, which are the cheapest.
    """
    used = {str(defense.get("name")) for defense in book.record.client_defenses}
    fitting: list[tuple[bool, bool, str, DefenseSetting]] = []
    unfit: list[tuple[str, str]] = []
    for setting in (each for name in registry.entries("defense") if name not in used for each in _settings(name)):
        try:
            sampled, world = _sample(book, subject, size, setting)
        except Exception as error:
            unfit.append((setting.label, reason(error)))
        else:
            fitting.append((not world.facts.client_mechanisms, reads_steps(sampled), sampled.label, sampled))
    return [setting for *_, setting in sorted(fitting, key=lambda one: one[:-1])], tuple(unfit)


def _settings(name: str) -> list[DefenseSetting]:
    """Return a defense with its defaults, then with stronger settings."""
    return [DefenseSetting(name), *(DefenseSetting(name, options) for options in _STRONGER.get(name, ()))]


def _sample(book: AuditJournal, subject: Checked, size: int, setting: DefenseSetting) -> tuple[DefenseSetting, World]:
    """Return the setting with a sampling that fits it, and its world."""
    try:
        return setting, _checked_world(book, subject, size, setting)
    except FedsimError:
        setting = replace(setting, sampling="poisson")
        return setting, _checked_world(book, subject, size, setting)


def _checked_world(book: AuditJournal, subject: Checked, size: int, setting: DefenseSetting) -> World:
    world = world_of(subject, book.plan, size, setting)
    check(world, subject)
    return world


@dataclass(frozen=True)
class _Defender:
    """Tries defenses one by one against the same attacks on the same batches."""

    book: AuditJournal
    subject: Checked
    inspector: Inspector
    without: TrainedClient
    batch_size: int
    most: int
    iterations: int

    def attempt(self, setting: DefenseSetting, seconds: float) -> Trial:
        """Attack, then train, with one more defense."""
        trial = Trial(name=setting.label, sampling=setting.sampling, settings=settings_of(setting))
        begin = self.book.clock.used
        try:
            with limit(seconds):
                world = world_of(self.subject, self.book.plan, self.batch_size, setting)
                allowed = self.book.record.policy.max_recognisable
                label = f"{setting.label}, batch {self.batch_size}"
                inspection = self.inspector.inspect(
                    world, updates(world), self.most, self.iterations, _FOR_THE_ATTACK * seconds, label, allowed
                )
                trial = trial.model_copy(update={"inspection": inspection})
                return self._train(trial, setting)
        except OutOfTime:
            return trial.model_copy(update={"failure": f"its {self.book.clock.used - begin:.0f} s were not enough"})
        except Exception as error:
            return trial.model_copy(update={"failure": reason(error)})

    def _train(self, trial: Trial, setting: DefenseSetting) -> Trial:
        """Train with the defense for as many rounds as without it, and compare."""
        subject, plan, before = self.subject, self.book.plan, self.without.summary
        world = world_of(subject, plan, before.batch_size, setting)
        check(world, subject)
        self.book.tell(f"{trial.name}: trains for {before.rounds} rounds")
        after = train(world, before.rounds, math.inf)
        findings, _ = _judge(self.book, subject, after, with_shadows=False)
        return trial.model_copy(
            update={
                "training": after.summary,
                "findings": findings,
                "guarantees": guarantees(world, after.evidence.journal.rounds),
                "accuracy_loss": accuracy_lost(self.without.correct, after.correct, plan.seed),
                "loss_change": after.summary.loss - before.loss,
                "slowdown": after.summary.seconds_a_round / before.seconds_a_round,
            }
        )


def _compare(book: AuditJournal, groups: ExampleGroups) -> Iterator[Finding]:
    """Yield how many examples of each group were recovered from updates."""
    scoring = book.plan.scoring
    rule = scoring.rule
    items = [item for one in book.record.inspections for victim in one.victims for item in victim.scores]
    names = [_class_of(item) if groups is CLASSES else item.group for item in items]
    hits = [(name, rule.has_succeeded(item)) for name, item in zip(names, items, strict=True) if name is not None]
    if hits:
        yield from compare(groups.name, f"{book.record.noun}s recovered", "recovered", rates(hits, scoring.confidence))


def _class_of(item: ItemScore) -> str | None:
    return None if item.label is None else class_name(item.label)


def _judge(
    book: AuditJournal, subject: Checked, training: TrainedClient, *, with_shadows: bool
) -> tuple[tuple[Finding, ...], Cases | None]:
    """Return what membership attacks make of a training, and whom they judged; nothing where these are too few."""
    wanted = _candidates(subject, training.summary.batch_size)
    if wanted < members.FEWEST:
        return (), None
    seconds = book.clock.left * (_FOR_MEMBERS if book.plan.defend else _ALL)
    cases = members.cases_of(training, wanted)
    findings = members.judge_members(cases, training, seconds, book.tell, with_shadows=with_shadows)
    return tuple(findings), cases


def _candidates(subject: Checked, batch_size: int) -> int:
    """Return how many members can be judged: as many as a training touches."""
    touched = ROUNDS * batch_size * subject.subject.local_steps
    return min(touched, members.count_candidates(subject.dataset.train, subject.dataset.test))
