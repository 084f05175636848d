"""Which defenses are tried, in which order, and that one which fails ends alone."""

from pathlib import Path

import pytest

from fedsim.audit import defending
from fedsim.audit.book import AuditJournal
from fedsim.audit.clock import Clock, OutOfTime
from fedsim.audit.inspecting import Inspector
from fedsim.audit.training import trained
from fedsim.audit.worlds import Setting
from fedsim.core import registry
from fedsim.record.policy import Policy
from tests.audit.findings import record
from tests.audit.subjects import small, world


@pytest.fixture
def book(tmp_path: Path) -> AuditJournal:
    return AuditJournal(tmp_path, Clock(60), record(Policy(), trials=()), lambda _said: None)


def test_a_defense_that_the_client_has_is_not_tried_and_guarantees_come_first(book: AuditJournal) -> None:
    book.keep(own_defenses=({"name": "pruning"},))
    fitting, unfit = defending._fitting(book, small(), 2)
    tried = {own.name for own in fitting} | {label.partition(" ")[0] for label, _ in unfit}
    assert tried == {*registry.methods("defense")} - {"pruning"}
    assert all(reason for _, reason in unfit)
    guaranteed = ["dp" in own.name for own in fitting]
    assert guaranteed == sorted(guaranteed, reverse=True)
    assert any(guaranteed)
    assert [own.name for own in fitting].count("gradient-noise") == 1 + len(defending._STRONGER["gradient-noise"])


@pytest.mark.parametrize(
    ("error", "told"), [(LookupError("no layer"), "LookupError: no layer"), (OutOfTime(), "s were not enough")]
)
def test_a_defense_that_fails_or_takes_too_long_is_a_trial_with_a_reason(
    book: AuditJournal, monkeypatch: pytest.MonkeyPatch, error: BaseException, told: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    subject = small()
    without = trained(world(subject), 2, 60.0)
    monkeypatch.setattr(defending, "world_of", fail)
    defender = defending._Defender(book, subject, Inspector((), {}, book.tell), without, 2, 1, 1)
    trial = defender.attempt(Setting("pruning"), 30.0)
    assert (trial.name, trial.inspection, trial.training) == ("pruning", None, None)
    assert told in (trial.failure or "")


def test_without_defenses_the_audit_ends_with_the_training(book: AuditJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    calm = book.plan.model_copy(update={"defend": False})
    book.keep(plan=calm, training=None)
    monkeypatch.setattr(defending, "_fitting", lambda *_: pytest.fail("no defense was asked for"))
    defending.defend(book, small(), 2)
    assert book.record.training is not None
    assert book.record.membership == (), "four test examples are too few to judge members"
