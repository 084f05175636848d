"""Which defenses are tried, in which order, and that one which fails ends alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedsim.audit import defending
from fedsim.audit.book import AuditJournal
from fedsim.audit.clock import Clock, OutOfTime
from fedsim.audit.inspecting import Inspector
from fedsim.audit.training import trained
from fedsim.audit.worlds import Setting
from fedsim.core import registry
from fedsim.record.policy import Policy
from tests.audit.findings import inspection, record, trial
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


class Reached(Exception):
    """The step that a test waits for."""


def test_defenses_are_tried_on_the_smallest_batch_of_those_that_leaked_most(
    book: AuditJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fitting(_book: AuditJournal, _subject: object, size: int) -> None:
        raise Reached(size)

    found = (inspection(2, batch=1), inspection(4, batch=8), inspection(4, batch=4), inspection(0, batch=2))
    book.keep(inspections=found)
    monkeypatch.setattr(defending, "_baseline", lambda *_: None)
    monkeypatch.setattr(defending, "_fitting", fitting)
    with pytest.raises(Reached) as reached:
        defending.defend(book, small(), 8)
    assert reached.value.args == (4,)


def test_what_a_defense_costs_is_what_it_adds(book: AuditJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = small()
    without = trained(world(subject), 2, 60.0)
    more = {"loss": without.summary.loss + 2.0, "seconds_a_round": 3.0 * without.summary.seconds_a_round}
    after = replace(without, correct=torch.zeros(4), summary=without.summary.model_copy(update=more))
    before = replace(without, correct=torch.tensor([1.0, 1.0, 1.0, 0.0]))
    monkeypatch.setattr(defending, "trained", lambda *_: after)
    defender = defending._Defender(book, subject, Inspector((), {}, book.tell), before, 2, 1, 1)
    found = defender._train(trial("pruning", 0, 0.0), Setting("pruning"))
    assert found.loss_change == pytest.approx(2.0)
    assert found.slowdown == pytest.approx(3.0)
    assert found.accuracy_loss is not None
    assert found.accuracy_loss.value == 0.75


def test_without_defenses_the_audit_ends_with_the_training(book: AuditJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    calm = book.plan.model_copy(update={"defend": False})
    book.keep(plan=calm, training=None)
    monkeypatch.setattr(defending, "_fitting", lambda *_: pytest.fail("no defense was asked for"))
    defending.defend(book, small(), 2)
    assert book.record.training is not None
    assert book.record.membership == (), "four test examples are too few to judge members"
