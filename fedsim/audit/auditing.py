"""Sequence of an audit: attack the client's updates, run membership inference, then evaluate defenses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from fedsim.audit import captured, evidence, members, planted
from fedsim.audit.arms import ArmAuditor
from fedsim.audit.defending import try_defenses
from fedsim.audit.evidence import fewest, may_change, seconds_each
from fedsim.audit.foreign import reason
from fedsim.audit.groups import CLASSES, compare_recovered
from fedsim.audit.noise_check import noise_note
from fedsim.audit.record import SUGGESTS, UNDERSTOOD, AuditArm, AuditPlan, AuditRecord
from fedsim.audit.session import AuditSession
from fedsim.audit.single_client import ROUNDS, world_of
from fedsim.audit.subject import CheckedSubject, ClientReply, Subject, check_subject
from fedsim.audit.training import TrainedClient
from fedsim.audit.update_attacks import REFERENCE_ITERATIONS, UpdateAttacker, enough
from fedsim.audit.verdict import control_failed
from fedsim.core.errors import FedsimError
from fedsim.core.hosting import one_thread
from fedsim.core.time_budget import TimeBudget
from fedsim.judgement.outcome import outcome_of
from fedsim.judgement.policy import Policy
from fedsim.questions.audit.question import PrivacyAuditQuestion
from fedsim.questions.base import info_of
from fedsim.questions.exposure.question import ExposureQuestion
from fedsim.questions.membership.question import MembershipQuestion
from fedsim.record import Finding
from fedsim.record.environment import environment, now
from fedsim.scenario.world import World
from fedsim.threat.observe import describe_any_round

QUESTIONS = (
    info_of("membership", MembershipQuestion),
    info_of("audit", PrivacyAuditQuestion),
    info_of("exposure", ExposureQuestion),
)
_FOR_UPDATES = 0.4  # share of the time for updates if defenses follow
_FOR_SECRETS = 0.4  # share of the remaining time
_FOR_THE_TRAINING = 0.125  # share of the time that remains after the secrets
_FOR_CANARIES = 0.2  # share of the time that remains after training, if the client states an epsilon
_FOR_NOISE = 60.0  # seconds after which no further attempt to compute the noise is begun; the first takes 10 to 25
_WITHOUT_DEFENSES = 0.8  # share of the time for updates if no defenses follow


@one_thread()
def run(
    subject: Subject,
    plan: AuditPlan,
    policy: Policy,
    folder: Path,
    clock: TimeBudget,
    tell: Callable[[str], None] = lambda _what: None,
) -> AuditRecord:
    """Audit a subject and write its record and pictures to a folder.

    Args:
        subject: subject returned by the user's factory.
        plan: batch sizes, time, seed and attacker knowledge.
        policy: thresholds, stored in the record for the verdict.
        folder: an existing folder.
        clock: clock of the whole audit.
        tell: callback for progress messages.

    Raises:
        FedsimError: nothing can be audited; the message states the reason.
    """
    sound = check_subject(subject if plan.group_by is None else replace(subject, group=plan.group_by), plan.target)
    tell("loaded")
    for note in subject.notes:
        if note.startswith(UNDERSTOOD):
            tell(note)
    record = AuditRecord(
        plan=plan,
        policy=policy,
        environment=environment(plan.command),
        started=now(),
        parameters=sum(p.numel() for p in sound.model.parameters()),
        shape=sound.dataset.spec.shape,
        classes=sound.dataset.spec.classes,
        noun=sound.task.noun_of(sound.dataset.spec),
        group=", ".join(groups.name for groups in sound.groups if groups is not CLASSES),
        client_defenses=tuple(dict(defense) for defense in subject.defenses),
        is_captured=plan.is_captured or subject.reply is not None,
        questions=QUESTIONS,
        notes=(*sound.notes, *_noise_notes(subject, tell)),
    )
    book = AuditSession(folder, clock, record, tell)
    if record.is_captured:
        arm = _attack_captured(book, sound)
        if subject.reply is not None:
            _question_loop(book, sound, subject.reply, arm)
    else:
        largest = max(_attack_sizes(book, sound), key=lambda arm: arm.batch_size)
        largest = _plant(book, sound, largest)
        trained = _train(book, sound, largest)
        if plan.defend:
            try_defenses(book, sound, trained)
        if control_failed(book.record):
            _search_longer(book, sound)
        _use_the_rest(book, sound)
    book.keep(status="finished", ended=now())
    return book.record


def _noise_notes(subject: Subject, tell: Callable[[str], None]) -> tuple[str, ...]:
    """Try to compute the noise of a private step, and return the result as a sentence."""
    if subject.noise is None:
        return ()
    tell("tries to compute the noise of a step")
    note = noise_note(subject.noise, _FOR_NOISE)
    tell(note)
    return (note,)


def _attack_sizes(book: AuditSession, subject: CheckedSubject) -> list[AuditArm]:
    """Attack the undefended client with every batch size, and return the arms without a failure.

    Raises:
        FedsimError: every batch size failed.
    """
    if not subject.is_scored:
        raise FedsimError(f"'{book.plan.target}' returned no loader, so the audit has no training data.")
    sizes = book.plan.batches
    end = (1.0 - (_FOR_UPDATES if book.plan.defend else _WITHOUT_DEFENSES)) * book.clock.remaining_seconds
    for number, size in enumerate(sizes):
        seconds = (book.clock.remaining_seconds - end) / (len(sizes) - number)
        auditor, sampling = ArmAuditor.of(book, subject), subject.subject.sampling
        arm = AuditArm(name=f"batch {size}", batch_size=size, sampling=sampling)
        auditor.attempt(arm, partial(_attack, auditor, seconds=seconds))
    if all(arm.failure for arm in book.record.client):
        reasons = "; ".join(f"{arm.name}: {arm.failure}" for arm in book.record.client)
        raise FedsimError(f"nothing could be audited: {reasons}")
    return [arm for arm in book.record.client if not arm.failure]


def _attack(auditor: ArmAuditor, arm: AuditArm, seconds: float) -> None:
    """Attack the undefended client with a single batch size.

    Raises:
        FedsimError: the attack cannot run; the message states the reason.
    """
    book, size = auditor.session, arm.batch_size
    try:
        world = auditor.world(arm)
        _introduce(book, world)
        _suggest(book, auditor.inspector, world)
        limit = max(enough(size), fewest(book.record.policy.max_recovered, book.plan.scoring.confidence))
        iterations = auditor.inspector.iterations(world, seconds)
        auditor.attack(arm, world, book.plan.updates or limit, iterations, seconds)
    except FedsimError:
        raise
    except Exception as error:
        raise FedsimError(f"one training step failed: {reason(error)}") from error


def _plant(book: AuditSession, subject: CheckedSubject, arm: AuditArm) -> AuditArm:
    """Measure memorisation of planted secrets if the client trains a causal language model; other tasks are skipped."""
    if not subject.task.labels_are_inputs:
        return arm
    book.tell("plants secrets and trains")
    try:
        return book.store_arm(planted.measure(subject, book.plan, arm, _FOR_SECRETS * book.clock.remaining_seconds))
    except Exception as error:
        book.keep(notes=(*book.record.notes, f"{reason(error).rstrip('.')}."))
        return arm


def _train(book: AuditSession, subject: CheckedSubject, arm: AuditArm) -> TrainedClient:
    """Train the undefended client, run membership inference, and compare the risk of its groups."""
    auditor = ArmAuditor.of(book, subject)
    book.tell("trains for a few rounds, without further defenses")
    world = world_of(subject, book.plan, arm.batch_size)
    arm, trained = auditor.train(arm, world, ROUNDS, book.clock.remaining_seconds * _FOR_THE_TRAINING)
    arm = auditor.test_guarantees(book.store_arm(arm), trained, _FOR_CANARIES * book.clock.remaining_seconds)
    arm, cases = auditor.judge_members(book.store_arm(arm), trained, members.attacks())
    compared: list[Finding] = []
    for groups in subject.groups:
        compared += compare_recovered(book.record, groups)
        compared += members.compare_groups(arm.findings_of("membership"), cases, groups) if cases else ()
    book.store_arm(arm.with_findings(compared, {}))
    return trained


def _search_longer(book: AuditSession, subject: CheckedSubject) -> None:
    """Search undecided updates again with the time that is free because no defense could be judged.

    An update that is not searched again keeps its first guess.
    """
    rule = book.plan.scoring.rule
    undecided = [arm for arm in book.record.client if arm.victims and outcome_of(arm.victims, rule) == "undecided"]
    for number, arm in enumerate(undecided):
        auditor, world = ArmAuditor.of(book, subject), world_of(subject, book.plan, arm.batch_size)
        seconds = _WITHOUT_DEFENSES * book.clock.remaining_seconds / (len(undecided) - number)
        iterations = auditor.inspector.iterations(world, seconds)
        if iterations > evidence.iterations(arm.victims):
            book.store_arm(auditor.attack_again(arm, world, iterations, seconds))


def _use_the_rest(book: AuditSession, subject: CheckedSubject) -> None:
    """Attack more updates of batch sizes with a still undecided policy."""
    allowed, scoring = book.record.policy.max_recovered, book.plan.scoring
    limit = book.plan.updates or fewest(allowed, scoring.confidence)
    for arm in book.record.client:
        is_open = not arm.failure and len(arm.victims) < limit and may_change(arm, allowed, scoring.rule)
        if not is_open or book.clock.remaining_seconds < seconds_each(arm):
            continue
        auditor, world = ArmAuditor.of(book, subject), world_of(subject, book.plan, arm.batch_size)
        left = _WITHOUT_DEFENSES * book.clock.remaining_seconds
        book.store_arm(auditor.attack(arm, world, limit, auditor.inspector.iterations(world, left), left))


def _suggest(book: AuditSession, inspector: UpdateAttacker, world: World) -> None:
    """Report once how many minutes searches at the literature's strength need, if more than the plan's minutes."""
    if book.record.needed_minutes is not None:
        return
    needed = (
        len(book.plan.batches) * inspector.seconds(world) / (_FOR_UPDATES if book.plan.defend else _WITHOUT_DEFENSES)
    )
    if needed <= 60.0 * book.plan.minutes:
        return
    minutes = math.ceil(needed / 60)
    note = (
        f"{SUGGESTS} {minutes}: a search of {REFERENCE_ITERATIONS} iterations, as in the literature, for "
        f"each batch size needs this time. With {book.plan.minutes:g} minutes searches are "
        "shorter where exact attacks fail."
    )
    book.tell(note)
    book.keep(notes=(*book.record.notes, note), needed_minutes=minutes)


def _attack_captured(book: AuditSession, subject: CheckedSubject) -> AuditArm:
    update = captured.read_update(subject, book.plan)
    world = update.victim.world
    _introduce(book, world)
    inspector = UpdateAttacker(update.knows, book.tell, subject.is_scored, subject.groups)
    arm = AuditArm(name="captured", batch_size=world.scenario.federation.batch_size)
    seconds = book.clock.remaining_seconds * (
        _FOR_UPDATES if subject.subject.reply is not None and book.plan.defend else 1.0
    )
    iterations = inspector.iterations(world, seconds)
    finding = inspector.inspect(world, iter([update.victim]), book.work(arm), 1, iterations, seconds)
    return book.store_arm(arm.with_findings([finding], {}))


def _question_loop(book: AuditSession, subject: CheckedSubject, reply: ClientReply, arm: AuditArm) -> None:
    """Repeat the client's own training, run membership inference and evaluate defenses.

    Skipped with a note if mods change the reply, because fedsim does not repeat the mods.
    """
    if reply.mods:
        why = f"the audit does not repeat its mods {', '.join(reply.mods)}"
        book.keep(notes=(*book.record.notes, f"Members and defenses of the app are not measured: {why}."))
        return
    trained = _train(book, subject, arm)
    if book.plan.defend:
        try_defenses(book, subject, trained)


def _introduce(book: AuditSession, world: World) -> None:
    """Record the threat model once, for all batch sizes."""
    if book.record.threat_model:
        return
    sizes = (world.scenario.federation.batch_size,) if book.record.is_captured else book.plan.batches
    book.keep(threat_model=describe_any_round(world, sizes), dropout=tuple(site.rate for site in world.models.sites))
