"""The audit in order: inspect the client as it is, find members, then try what could protect it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from fedsim.audit import captured, defending, planted
from fedsim.audit.book import AuditJournal
from fedsim.audit.clock import AuditClock
from fedsim.audit.evidence import fewest, may_change
from fedsim.audit.foreign import reason
from fedsim.audit.groups import CLASSES
from fedsim.audit.inspecting import STRENGTH, Inspector, enough, updates
from fedsim.audit.record import SUGGESTS, AuditPlan, AuditRecord, Inspection
from fedsim.audit.subject import Checked, Subject, checked
from fedsim.audit.worlds import check, world_of
from fedsim.core.errors import FedsimError
from fedsim.questions.exposure import ITEMS
from fedsim.record.environment import environment
from fedsim.record.policy import Policy
from fedsim.scenario.world import World
from fedsim.threat.observe import describe_any_round

_FOR_UPDATES = 0.4  # share of the time, where defenses follow
_FOR_SECRETS = 0.4  # share of the time that is left then
_WITHOUT_DEFENSES = 0.8  # where none follow


def run(
    subject: Subject,
    plan: AuditPlan,
    policy: Policy,
    folder: Path,
    clock: AuditClock,
    tell: Callable[[str], None] = lambda _what: None,
) -> AuditRecord:
    """Audit a subject and leave record and pictures in a folder.

    Args:
        subject: what the user's factory returned.
        plan: what to attack, for how long, with which knowledge.
        policy: stored in the record, for the verdict.
        folder: an existing folder.
        clock: clock of the whole audit.
        tell: called with what is being done.

    Raises:
        FedsimError: nothing can be audited; the message says why.
    """
    torch.set_num_threads(1)
    sound = checked(subject if plan.by is None else replace(subject, group=plan.by), plan.target)
    tell("loaded")
    record = AuditRecord(
        plan=plan,
        policy=policy,
        environment=environment(plan.command),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        parameters=sum(p.numel() for p in sound.model.parameters()),
        shape=sound.dataset.spec.shape,
        classes=sound.dataset.spec.classes,
        noun=sound.task.noun,
        group=", ".join(groups.name for groups in sound.groups if groups is not CLASSES),
        client_defenses=tuple(dict(defense) for defense in subject.defenses),
        notes=sound.notes,
    )
    book = AuditJournal(folder, clock, record, tell)
    if plan.is_captured:
        _inspect_captured(book, sound)
    else:
        sizes = _inspect_batches(book, sound)
        _plant(book, sound, max(sizes))
        defending.defend(book, sound, max(sizes))
        _use_the_rest(book, sound)
    book.keep(status="finished")
    return book.record


def _inspect_batches(book: AuditJournal, subject: Checked) -> list[int]:
    """Attack the client as it is with every batch size; return those that work.

    Raises:
        FedsimError: no batch size works.
    """
    if not subject.is_scored:
        raise FedsimError(f"'{book.plan.target}' returned no loader, so there is nothing to train on.")
    sizes, works = book.plan.batches, list[int]()
    end = (1.0 - (_FOR_UPDATES if book.plan.defend else _WITHOUT_DEFENSES)) * book.clock.left
    for number, size in enumerate(sizes):
        seconds = (book.clock.left - end) / (len(sizes) - number)
        try:
            inspection = _inspect(book, subject, size, seconds)
            works.append(size)
        except Exception as error:
            why = reason(error) if isinstance(error, FedsimError) else f"one training step failed: {reason(error)}"
            inspection = Inspection(batch_size=size, iterations=0, failure=why)
        book.keep(inspections=(*book.record.inspections, inspection))
    if not works:
        reasons = "; ".join(f"batch {one.batch_size}: {one.failure}" for one in book.record.inspections)
        raise FedsimError(f"nothing could be audited: {reasons}")
    return works


def _inspect(book: AuditJournal, subject: Checked, size: int, seconds: float) -> Inspection:
    world = world_of(subject, book.plan, size)
    check(world, subject)
    _introduce(book, world)
    inspector = Inspector(book.plan.knows, book.arrays, book.tell, groups=subject.groups)
    allowed = book.record.policy.max_recognisable
    _suggest(book, inspector, world)
    most = book.plan.updates or max(enough(size), fewest(allowed, book.plan.scoring.confidence))
    iterations = inspector.iterations(world, seconds)
    return inspector.inspect(world, updates(world), most, iterations, seconds, f"batch {size}", allowed)


def _plant(book: AuditJournal, subject: Checked, batch_size: int) -> None:
    """Measure what a causal language model remembers of planted secrets; others learn no text that could hold one."""
    if not subject.task.labels_are_inputs:
        return
    book.tell("plants secrets and trains")
    try:
        memorised = planted.measure(subject, book.plan, batch_size, _FOR_SECRETS * book.clock.left)
        book.add(memorised.findings, {ITEMS: memorised.secrets})
    except Exception as error:
        book.keep(notes=(*book.record.notes, f"{reason(error).rstrip('.')}."))


def _use_the_rest(book: AuditJournal, subject: Checked) -> None:
    """Attack more updates of batch sizes for which the time ended before the policy was decided."""
    allowed, scoring = book.record.policy.max_recognisable, book.plan.scoring
    for number, inspection in enumerate(book.record.inspections):
        most = book.plan.updates or fewest(allowed, scoring.confidence)
        is_open = (
            inspection.failure is None and len(inspection.victims) < most and may_change(inspection, allowed, scoring)
        )
        if not is_open or book.clock.left < inspection.seconds / max(1, len(inspection.victims)):
            continue
        world = world_of(subject, book.plan, inspection.batch_size)
        inspector = Inspector(book.plan.knows, book.arrays, book.tell, groups=subject.groups)
        left = _WITHOUT_DEFENSES * book.clock.left
        name, iterations = f"batch {inspection.batch_size}", inspector.iterations(world, left)
        longer = inspector.inspect(world, updates(world), most, iterations, left, name, allowed, inspection)
        every = list(book.record.inspections)
        every[number] = longer
        book.keep(inspections=tuple(every))


def _suggest(book: AuditJournal, inspector: Inspector, world: World) -> None:
    """Say before the first search how many minutes searches as long as the literature's would take."""
    if any(note.startswith(SUGGESTS) for note in book.record.notes):
        return
    needed = (
        len(book.plan.batches) * inspector.seconds(world) / (_FOR_UPDATES if book.plan.defend else _WITHOUT_DEFENSES)
    )
    if needed <= 60.0 * book.plan.minutes:
        return
    note = (
        f"{SUGGESTS} {math.ceil(needed / 60)}: one search of {STRENGTH} iterations, as in the literature, for each "
        f"batch size takes so long. With {book.plan.minutes:g} minutes searches are shorter where exact attacks fail."
    )
    book.tell(note)
    book.keep(notes=(*book.record.notes, note))


def _inspect_captured(book: AuditJournal, subject: Checked) -> None:
    update = captured.read_update(subject, book.plan)
    world, victims = update.victim.world, iter([update.victim])
    _introduce(book, world)
    inspector = Inspector(update.knows, book.arrays, book.tell, subject.is_scored, subject.groups)
    iterations = inspector.iterations(world, book.clock.left)
    inspection = inspector.inspect(world, victims, 1, iterations, book.clock.left, "captured")
    book.keep(inspections=(inspection,))


def _introduce(book: AuditJournal, world: World) -> None:
    """Describe the attacker once, for all batch sizes."""
    if book.record.threat_model:
        return
    sizes = (world.scenario.federation.batch_size,) if book.plan.is_captured else book.plan.batches
    book.keep(threat_model=describe_any_round(world, sizes), dropout=tuple(site.rate for site in world.models.sites))
