"""What an audit has found so far lies on the disk after every step."""

from pathlib import Path

import numpy as np

from fedsim.audit.record import ARRAYS, AuditRecord
from fedsim.audit.session import AuditSession
from fedsim.core.time_budget import TimeBudget
from fedsim.judgement.policy import Policy
from fedsim.record.store import read_record
from tests.audit.findings import attacked, exposure, membership, record, secrets


def test_what_is_kept_is_read_back_with_the_time_used_and_the_pictures(tmp_path: Path) -> None:
    book = AuditSession(tmp_path, TimeBudget(60), record(Policy(), control=None), print)
    assert book.plan is book.record.plan
    book.arrays["batch-1/1/guesses"] = np.ones((1, 1, 2, 2), np.float32)
    assert book.note(attacked(3)) == attacked(3)
    assert not (tmp_path / AuditRecord.file).exists()
    assert book.store_arm(attacked(3, batch=4)) == attacked(3, batch=4)
    first = read_record(tmp_path, AuditRecord)
    assert first == book.record
    assert [arm.name for arm in first.arms] == ["batch 1", "batch 4"]
    assert first.arms[1] == attacked(3, batch=4)
    assert 0 < first.seconds < 60
    with np.load(tmp_path / ARRAYS) as stored:
        assert stored["batch-1/1/guesses"].sum() == 4
    book.keep(parameters=7)
    assert read_record(tmp_path, AuditRecord).arms == first.arms
    assert read_record(tmp_path, AuditRecord).seconds >= first.seconds


def test_an_arm_of_the_same_name_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    book = AuditSession(tmp_path, TimeBudget(60), record(Policy()), print)
    book.store_arm(attacked(3).with_findings([membership(0.2)], {}).with_findings(exposure(), secrets()))
    stored = read_record(tmp_path, AuditRecord)
    assert [arm.kind for arm in stored.arms] == ["client", "control"]
    assert stored.arms[0].answers == (membership(0.2), *exposure())
    assert stored.of("exposure") == exposure()
    assert stored.items == secrets()
    assert stored.training is None


def test_pictures_of_an_arm_stand_under_its_name(tmp_path: Path) -> None:
    book = AuditSession(tmp_path, TimeBudget(60), record(Policy()), print)
    assert book.work(attacked(3)).keep("2", {"guesses": np.ones(1)}) == "batch 1/2"
    assert [*book.arrays] == ["batch 1/2/guesses"]
