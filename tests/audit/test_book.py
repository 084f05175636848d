"""What an audit has found so far lies on the disk after every step."""

from pathlib import Path

import numpy as np

from fedsim.audit.book import AuditJournal
from fedsim.audit.clock import AuditClock
from fedsim.audit.record import ARRAYS, read
from fedsim.record.policy import Policy
from tests.audit.findings import inspection, record


def test_what_is_kept_is_read_back_with_the_time_used_and_the_pictures(tmp_path: Path) -> None:
    book = AuditJournal(tmp_path, AuditClock(60), record(Policy(), inspections=()), print)
    assert book.plan is book.record.plan
    book.arrays["batch-1/1/guesses"] = np.ones((1, 1, 2, 2), np.float32)
    book.keep(inspections=(inspection(3),))
    first = read(tmp_path)
    assert first == book.record
    assert first.inspections[0].recovered == 0.75
    assert 0 < first.seconds < 60
    with np.load(tmp_path / ARRAYS) as stored:
        assert stored["batch-1/1/guesses"].sum() == 4
    book.keep(parameters=7)
    assert read(tmp_path).inspections == first.inspections
    assert read(tmp_path).seconds >= first.seconds
