"""The audit in order: every batch size that works, then the defenses on the largest."""

from pathlib import Path

import pytest

from fedsim.audit import AuditPlan, Subject, auditing
from fedsim.audit.arms import ArmAuditor
from fedsim.audit.record import AuditArm, AuditRecord
from fedsim.audit.session import AuditSession
from fedsim.audit.subject import CheckedSubject
from fedsim.audit.update_attacks import UpdateAttacker
from fedsim.core.errors import FedsimError
from fedsim.core.time_budget import TimeBudget
from fedsim.judgement.policy import Policy
from fedsim.record.store import read_record
from fedsim.scenario.world import World
from tests.audit.findings import as_control, attacked, exposure, secrets
from tests.audit.rows import subject as lm
from tests.audit.subjects import plan, small

Refusals = dict[int, Exception]


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Refusals:
    """Batch sizes whose inspection fails; the others find everything, and no defense is tried."""
    refusals: Refusals = {}

    def attack(auditor: ArmAuditor, arm: AuditArm, *_: object) -> AuditArm:
        if arm.batch_size in refusals:
            raise refusals[arm.batch_size]
        return auditor.session.store_arm(attacked(4, batch=arm.batch_size))

    def train(_book: AuditSession, _subject: CheckedSubject, arm: AuditArm) -> AuditArm:
        return arm

    def try_defenses(book: AuditSession, _subject: CheckedSubject, trained: AuditArm) -> None:
        book.keep(not_tried=(f"on {trained.name}",))

    monkeypatch.setattr(ArmAuditor, "attack", attack)
    monkeypatch.setattr(auditing, "_train", train)
    monkeypatch.setattr(auditing, "try_defenses", try_defenses)
    return refusals


def audited(folder: Path, batches: tuple[int, ...] = (1, 2, 4)) -> AuditRecord:
    return auditing.run(small().subject, plan(batches=batches), Policy(), folder, TimeBudget(60))


def test_a_batch_size_that_fails_is_told_and_the_others_go_on(tmp_path: Path, refusing: Refusals) -> None:
    refusing[1] = FedsimError("the model normalises over batches")
    refusing[4] = ValueError("too many")
    record = audited(tmp_path)
    assert [own.batch_size for own in record.arms] == [1, 2, 4]
    assert record.arms[0].failure == "the model normalises over batches"
    assert record.arms[1].failure == ""
    assert record.arms[2].failure.startswith("one training step failed: ValueError: too many")
    assert record.not_tried == ("on batch 2",)
    assert (record.status, record.parameters, record.shape, record.classes) == ("finished", 154, (1, 4, 4), 2)
    assert read_record(tmp_path, AuditRecord) == record


def test_where_no_batch_size_works_the_reasons_are_one_sentence(tmp_path: Path, refusing: Refusals) -> None:
    refusing[1], refusing[2] = FedsimError("no bias"), FedsimError("no room")
    with pytest.raises(FedsimError, match="nothing could be audited: batch 1: no bias.*; batch 2: no room"):
        audited(tmp_path, (1, 2))


def test_without_data_there_is_nothing_to_train_on(tmp_path: Path) -> None:
    bare = Subject(small().subject.model, shape=(1, 4, 4))
    with pytest.raises(FedsimError, match="'test' returned no loader, so the audit has no training data"):
        auditing.run(bare, plan(), Policy(), tmp_path, TimeBudget(60))


@pytest.mark.usefixtures("refusing")
def test_secrets_are_planted_into_language_models_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def measure(_subject: CheckedSubject, _plan: AuditPlan, arm: AuditArm, _seconds: float) -> AuditArm:
        asked.append(arm.batch_size)
        if arm.batch_size == 1:
            raise FedsimError("planted secrets were not measured: 0 s were not enough")
        return arm.with_findings(exposure(), secrets())

    monkeypatch.setattr(auditing.planted, "measure", measure)
    assert audited(tmp_path).of("exposure") == ()
    assert not asked
    own = lm(1e-3).subject
    both = auditing.run(own, plan(batches=(1, 2)), Policy(), tmp_path, TimeBudget(60))
    assert (both.of("exposure"), both.items) == (exposure(), secrets())
    without = auditing.run(own, plan(batches=(1,)), Policy(), tmp_path, TimeBudget(60))
    assert asked == [2, 1]
    assert without.of("exposure") == ()
    assert "planted secrets were not measured: 0 s were not enough." in without.notes


def test_what_an_adapter_understood_is_said_at_once(tmp_path: Path) -> None:
    bare = Subject(small().subject.model, shape=(1, 4, 4), notes=("Understood: a thing.", "It has no loader."))
    lines: list[str] = []
    with pytest.raises(FedsimError, match="returned no loader"):
        auditing.run(bare, plan(), Policy(), tmp_path, TimeBudget(60), lines.append)
    assert lines == ["loaded", "Understood: a thing."]


def test_the_time_that_defenses_leave_goes_to_longer_searches_of_the_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_to_control(book: AuditSession, _subject: CheckedSubject, _trained: AuditArm) -> None:
        book.store_arm(as_control(attacked(0)))

    def attack(auditor: ArmAuditor, arm: AuditArm, *_: object) -> AuditArm:
        missed = attacked(4 if arm.batch_size == 2 else 0, batch=arm.batch_size, iterations=50, converged=False)
        return auditor.session.store_arm(missed)

    def inspect(
        _self: UpdateAttacker, _world: object, _updates: object, _work: object, most: int, *rest: float
    ) -> object:
        asked.append((most, rest[0]))
        return attacked(1, of=1, iterations=900).attacks[0]  # for one update of four the time is enough

    asked: list[tuple[int, float]] = []
    monkeypatch.setattr(ArmAuditor, "attack", attack)
    monkeypatch.setattr(UpdateAttacker, "iterations", lambda _self, world, _seconds: 900 if size_of(world) == 1 else 50)
    monkeypatch.setattr(UpdateAttacker, "seconds", lambda *_: 1.0)
    monkeypatch.setattr(UpdateAttacker, "inspect", inspect)
    monkeypatch.setattr(auditing, "_train", lambda _book, _subject, arm: arm)
    monkeypatch.setattr(auditing, "try_defenses", fail_to_control)
    found = auditing.run(small().subject, plan(batches=(1, 2, 4)), Policy(), tmp_path, TimeBudget(60)).client
    assert asked == [(4, 900)]  # batch 2 is recovered, and of batch 4 a search could not be longer
    assert [victim.iterations for victim in found[0].victims] == [900, 50, 50, 50]
    assert [arm.recovered_share and arm.recovered_share.value for arm in found] == [0.25, 1.0, 0.0]


def size_of(world: World) -> int:
    return world.scenario.federation.batch_size
