"""The audit itself, in order: inspect the client as it is, ask who was a member, then try what could protect it."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from fedsim import registry
from fedsim.audit import captured, members
from fedsim.audit.clock import Clock, OutOfTime, limited
from fedsim.audit.foreign import reason
from fedsim.audit.inspecting import Arrays, Inspector, Seen, enough, updates
from fedsim.audit.record import ARRAYS, RECORD, AuditRecord, Inspection, Plan, Trial
from fedsim.audit.subject import Checked, Subject, checked
from fedsim.audit.training import Trained, accuracy_lost, trained
from fedsim.audit.worlds import ROUNDS, check, fitting, settings_of, world_of
from fedsim.environment import environment
from fedsim.errors import FedsimError
from fedsim.experiment import guarantees
from fedsim.masks import dropout_sites
from fedsim.observe import describe
from fedsim.policy import Policy
from fedsim.record import MembershipRecord
from fedsim.store import npz, write_whole
from fedsim.world import World

_FOR_UPDATES = 0.5  # shares of the time that is left
_FOR_MEMBERS = 0.25
_FOR_TRIALS = 0.95
_LEAST_SECONDS = 1.0


@dataclass
class Audit:
    """An audit in progress. Its record is written after every step, so that a kill leaves what was found."""

    subject: Checked
    folder: Path
    clock: Clock
    record: AuditRecord
    tell: Callable[[str], None]
    arrays: Arrays = field(default_factory=dict)

    def run(self) -> AuditRecord:
        """Do everything that the time allows."""
        plan = self.record.plan
        inspector = Inspector(plan.knows, self.arrays, self.tell, self.subject.is_scored)
        worlds = self._inspected(inspector)
        if self.subject.is_scored and not plan.is_captured and worlds:
            self._protected(inspector, worlds)
        self._keep(status="finished", seconds=self.clock.used)
        return self.record

    def _inspected(self, inspector: Inspector) -> dict[int, World]:
        """Attack the client as it is; return the worlds of the batch sizes that work."""
        plan, worlds = self.record.plan, dict[int, World]()
        sources = list(self._sources())
        end = self.clock.left * (1.0 if plan.is_captured else 1.0 - _FOR_UPDATES)
        for number, (size, source) in enumerate(sources):
            left = max(_LEAST_SECONDS, self.clock.left - (0.0 if plan.is_captured else end))
            try:
                world, seen, most = source()
                found = inspector.inspect(world, size, seen, most, left / (len(sources) - number), f"batch {size}")
                worlds[size] = world
            except Exception as error:
                why = reason(error) if isinstance(error, FedsimError) else f"one training step failed: {reason(error)}"
                found = Inspection(batch_size=size, iterations=0, failure=why)
            self._keep(inspections=(*self.record.inspections, found))
        if not worlds:
            reasons = "; ".join(f"batch {own.batch_size}: {own.failure}" for own in self.record.inspections)
            raise FedsimError(f"nothing could be audited: {reasons}")
        return worlds

    def _sources(self) -> Iterator[tuple[int, Callable[[], tuple[World, Iterator[Seen], int]]]]:
        plan = self.record.plan
        if plan.is_captured:
            own = captured.update(self.subject, plan)
            yield len(own.seen.truth.private[0]), lambda: (own.world, iter([own.seen]), 1)
            return
        for size in plan.batches:

            def source(size: int = size) -> tuple[World, Iterator[Seen], int]:
                world = world_of(self.subject, plan, size, ())
                check(world, self.subject)
                if not self.record.threat_model:
                    sites = dropout_sites(world.new_model(), world.dataset.spec.shape, size)
                    self._keep(threat_model=threat_model(world), dropout=tuple(site.rate for site in sites))
                return world, updates(world), enough(size)

            yield size, source

    def _protected(self, inspector: Inspector, worlds: dict[int, World]) -> None:
        """Ask who was a member, and try every defense that fits, until the time is over."""
        training = self._baseline(max(worlds))
        worst = max(self.record.inspections, key=lambda own: (own.recovered or 0.0, own.batch_size))
        names = [name for name in registry.methods("defense") if name not in _names(self.record.own_defenses)]
        tried = 0
        for position, name in enumerate(names):
            share = self.clock.left * _FOR_TRIALS / (len(names) - position)
            world, _ = fitting(self.subject, self.record.plan, worst.batch_size, name)
            if world is None:
                continue
            if tried and self.clock.left < _LEAST_SECONDS:
                self._keep(not_tried=(*self.record.not_tried, name))
                continue
            tried += 1
            trial = self._trial(inspector, world, worst, training, max(share, _LEAST_SECONDS))
            self._keep(trials=(*self.record.trials, trial))

    def _baseline(self, batch_size: int) -> Trained:
        """Train without further defenses, and ask who was a member."""
        world = world_of(self.subject, self.record.plan, batch_size, (), candidates=self._candidates)
        self.tell("trains for a few rounds, without further defenses")
        training = trained(world, ROUNDS, self.clock.left * _FOR_MEMBERS / 2)
        self._keep(
            training=training.summary,
            membership=self._judged(world, training, with_shadows=True),
            guarantees=guarantees(world, training.journal.rounds),
        )
        return training

    def _trial(self, inspector: Inspector, world: World, worst: Inspection, without: Trained, seconds: float) -> Trial:
        """Attack the same batches with one more defense, then train with it."""
        choice, size = world.scenario.defenses[-1], worst.batch_size
        trial = Trial(name=choice.name, settings=settings_of(choice))
        try:
            with limited(seconds):
                label, most = f"{choice.name}, batch {size}", len(worst.victims)
                found = inspector.inspect(world, size, updates(world), most, seconds / 2, label)
                trial = trial.model_copy(update={"inspection": found})
                return self._measured(trial, without)
        except OutOfTime:
            return trial.model_copy(update={"failure": f"its {seconds:.0f} s were not enough"})
        except Exception as error:
            why = reason(error)
            return trial.model_copy(update={"failure": why})

    def _measured(self, trial: Trial, without: Trained) -> Trial:
        """Train with the defense as long as without it, and compare."""
        subject, plan, before = self.subject, self.record.plan, without.summary
        world = world_of(subject, plan, before.batch_size, ({"name": trial.name},), candidates=self._candidates)
        check(world, subject)
        self.tell(f"{trial.name}: trains for {before.rounds} rounds")
        with_ = trained(world, before.rounds, math.inf)
        return trial.model_copy(
            update={
                "training": with_.summary,
                "membership": self._judged(world, with_, with_shadows=False),
                "guarantees": guarantees(world, with_.journal.rounds),
                "accuracy_loss": accuracy_lost(without.correct, with_.correct, plan.seed),
                "loss_change": with_.summary.loss - before.loss,
                "slowdown": with_.summary.seconds_a_round / before.seconds_a_round,
            }
        )

    def _judged(self, world: World, training: Trained, *, with_shadows: bool) -> tuple[MembershipRecord, ...]:
        if self._candidates < members.FEWEST:
            return ()
        seconds = self.clock.left * _FOR_MEMBERS
        return members.judged(world, training, seconds, self.tell, with_shadows=with_shadows)

    @property
    def _candidates(self) -> int:
        data = self.subject.dataset
        return members.candidates(data.train, data.test)

    def _keep(self, **found: Any) -> None:
        self.record = self.record.model_copy(update={**found, "seconds": self.clock.used})
        write_whole(self.folder / ARRAYS, npz(self.arrays))
        write_whole(self.folder / RECORD, self.record.model_dump_json(indent=1).encode())


def run(
    subject: Subject,
    plan: Plan,
    policy: Policy,
    folder: Path,
    clock: Clock,
    tell: Callable[[str], None] = lambda _what: None,
) -> AuditRecord:
    """Audit a subject and leave record and pictures in a folder.

    Args:
        subject: as the user's factory returned it.
        plan: what to attack, how long, with which knowledge.
        policy: kept in the record, for the verdict.
        folder: exists.
        clock: of the whole audit.
        tell: told what is being done.

    Raises:
        FedsimError: nothing can be audited; the message says why.
    """
    torch.set_num_threads(1)
    sound = checked(subject, plan.target)
    tell("loaded")
    record = AuditRecord(
        plan=plan,
        policy=policy,
        environment=environment(shlex.join(["fedsim", *sys.argv[1:]])),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        parameters=sum(p.numel() for p in sound.model.parameters()),
        shape=sound.dataset.spec.shape,
        classes=sound.dataset.spec.classes,
        own_defenses=tuple(dict(own) for own in subject.defenses),
        notes=sound.notes,
    )
    return Audit(sound, folder, clock, record, tell).run()


def threat_model(world: World) -> tuple[str, ...]:
    """Return the attacker in sentences, without those about rounds and batches, which an audit varies."""
    return tuple(s for s in describe(world) if not s.startswith(("It attacks", "Membership attacks judge")))


def _names(defenses: Sequence[dict[str, Any]]) -> set[str]:
    return {str(own.get("name")) for own in defenses}
