"""What is asked of an arm, and in which share of the time."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedsim.audit import auditing, members
from fedsim.audit.arms import ArmAuditor
from fedsim.audit.record import AuditArm
from fedsim.audit.session import AuditSession
from fedsim.audit.single_client import ROUNDS
from fedsim.audit.training import train
from fedsim.judgement.policy import Policy
from fedsim.questions.base import QuestionContext
from tests.audit.clocks import StoppedClock
from tests.audit.findings import attacked, record
from tests.audit.subjects import small, world

ARM = AuditArm(name="batch 2", batch_size=2)


@pytest.fixture
def auditor(tmp_path: Path) -> ArmAuditor:
    book = AuditSession(tmp_path, StoppedClock(), record(Policy(), control=None, training=None), lambda _said: None)
    return ArmAuditor.of(book, small())


@pytest.mark.slow
def test_an_arm_that_is_attacked_again_has_all_of_its_updates_in_one_finding(auditor: ArmAuditor) -> None:
    at = auditor.world(ARM)
    first = auditor.attack(ARM, at, 1, 5, 60.0)
    both = auditor.attack(first, at, 2, 5, 60.0)
    (finding,) = both.findings
    assert finding.scope == {"batch size": 2}
    assert [victim.round for victim in both.victims] == [1, 2]
    assert both.victims[0] == first.victims[0]
    assert auditor.session.record.client[-1] == both


def test_what_is_known_before_something_fails_is_kept_with_the_reason(auditor: ArmAuditor) -> None:
    def ask(_arm: AuditArm) -> None:
        auditor.session.store_arm(attacked(3, batch=2))
        raise LookupError("no layer")

    kept = auditor.attempt(ARM, ask)
    assert kept.failure.startswith("LookupError: no layer")
    assert kept.findings == attacked(3, batch=2).findings
    assert auditor.session.record.client[-1] == kept


def test_the_client_trains_in_its_share_of_the_time_and_members_are_found_with_shadows(
    auditor: ArmAuditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    book, subject = auditor.session, auditor.subject
    book.tell, trained, given = said.append, train(world(subject), 2, 60.0), list[Any]()

    def judge(_auditor: ArmAuditor, arm: AuditArm, _trained: object, attacks: object) -> tuple[AuditArm, None]:
        given.append(attacks)
        return arm, None

    monkeypatch.setattr("fedsim.audit.arms.train", lambda _world, *limits: given.append(limits) or trained)
    monkeypatch.setattr(ArmAuditor, "judge_members", judge)
    assert auditing._train(book, subject, ARM) is trained
    assert given == [(ROUNDS, 7.5), members.attacks()]  # half of the quarter that members get
    assert said == ["trains for a few rounds, without further defenses"]
    assert book.record.training == trained.summary


@pytest.mark.parametrize(("defends", "seconds"), [(True, 15.0), (False, 57.0)])
def test_members_are_judged_in_a_share_of_the_time(
    auditor: ArmAuditor, monkeypatch: pytest.MonkeyPatch, defends: bool, seconds: float
) -> None:
    book, given = auditor.session, list[Any]()
    book.keep(plan=book.plan.model_copy(update={"defend": defends}))
    cases: Any = SimpleNamespace(work=QuestionContext())
    monkeypatch.setattr(members, "count_candidates", lambda _trained: members.FEWEST)
    monkeypatch.setattr(members, "cases_of", lambda *_: cases)
    monkeypatch.setattr(members, "judge_within", lambda *limits: given.append(limits[:3]) or ())
    arm, judged = auditor.judge_members(ARM, train(world(auditor.subject), 2, 60.0), [])
    assert (arm, judged) == (ARM, cases)
    assert given == [(seconds, [], cases)]


def test_too_few_examples_have_no_members_to_judge(auditor: ArmAuditor) -> None:
    arm, cases = auditor.judge_members(ARM, train(world(auditor.subject), 2, 60.0), members.attacks())
    assert (arm, cases) == (ARM, None), "four test examples are too few"


def test_canaries_test_what_a_private_training_states_and_nothing_else(auditor: ArmAuditor, tmp_path: Path) -> None:
    plain, trained = auditor.train(ARM, auditor.world(ARM), 2, 60.0)
    assert auditor.test_guarantees(plain, trained, 60.0) == plain
    private = small(defenses=({"name": "dp-sgd", "noise_multiplier": 2.0},), sampling="poisson")
    auditor = ArmAuditor.of(auditor.session, private)
    arm = ARM.model_copy(update={"sampling": "poisson"})
    arm, trained = auditor.train(arm, auditor.world(arm), 2, 60.0)
    arm = auditor.test_guarantees(arm, trained, 60.0)
    (finding,) = arm.findings_of("audit")
    assert finding.chance_level == arm.guarantees[0].epsilon
    assert finding.value.value <= finding.chance_level
    assert not finding.alarm
    late = auditor.test_guarantees(arm.model_copy(update={"findings": ()}), trained, 0.0)
    assert late.findings == ()
    assert (
        auditor.session.record.notes[-1] == "The stated epsilon was not tested with canaries: its 0 s were not enough."
    )
