"""Which defenses are tried, in which order, and that one which fails ends alone."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fedsim.audit import defending
from fedsim.audit.book import AuditJournal
from fedsim.audit.clock import AuditClock, OutOfTime
from fedsim.audit.inspecting import Inspector
from fedsim.audit.training import train
from fedsim.audit.worlds import ROUNDS, DefenseSetting, reads_steps
from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.record.policy import Policy
from tests.audit.findings import inspection, record, trial
from tests.audit.subjects import small, world


@pytest.fixture
def book(tmp_path: Path) -> AuditJournal:
    return AuditJournal(tmp_path, AuditClock(60), record(Policy(), trials=()), lambda _said: None)


def test_a_defense_that_the_client_has_is_not_tried_and_guarantees_come_first(book: AuditJournal) -> None:
    book.keep(client_defenses=({"name": "pruning"},))
    fitting, unfit = defending._fitting(book, small(), 2)
    tried = {own.name for own in fitting} | {label.partition(" ")[0] for label, _ in unfit}
    assert tried == {*registry.methods("defense")} - {"pruning"}
    assert all(reason for _, reason in unfit)
    order = [("dp" not in own.name, reads_steps(own), own.label) for own in fitting]
    assert order == sorted(order)
    assert {first for first, _, _ in order} == {second for _, second, _ in order} == {True, False}
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
    without = train(world(subject), 2, 60.0)
    monkeypatch.setattr(defending, "world_of", fail)
    defender = defending._Defender(book, subject, Inspector((), {}, book.tell), without, 2, 1, 1)
    trial = defender.attempt(DefenseSetting("pruning"), 30.0)
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


class StoppedClock(AuditClock):
    """A clock of 60 seconds that stands still until a test moves it."""

    now = 0.0

    def __init__(self) -> None:
        super().__init__(60.0)

    @property
    def left(self) -> float:
        return max(0.0, 60.0 - self.now)


def test_each_defense_gets_its_share_of_the_time_until_none_is_left(
    book: AuditJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    book.clock = clock = StoppedClock()
    settings = [DefenseSetting(f"own-{number}") for number in range(5)]  # with the control six shares of ten seconds
    given: list[tuple[str, float]] = []
    taken = iter((20.0, 20.0, 19.0, 1.0))

    def attempt(_self: object, setting: DefenseSetting, seconds: float) -> Any:
        given.append((setting.label, seconds))
        clock.now += next(taken)
        return trial(setting.label, 0, 0.0)

    monkeypatch.setattr(defending, "_baseline", lambda *_: None)
    monkeypatch.setattr(defending, "_fitting", lambda *_: (settings, (("unfit", "why"),)))
    monkeypatch.setattr(Inspector, "iterations", lambda *_: 7)
    monkeypatch.setattr(Inspector, "inspect", lambda *_: inspection(3))
    monkeypatch.setattr(defending._Defender, "attempt", attempt)
    book.keep(control=None)
    defending.defend(book, small(), 8)
    assert given == [("own-0", 20.0), ("own-1", 20.0), ("own-2", 20.0), ("own-3", 1.0)]
    assert [own.name for own in book.record.trials] == ["own-0", "own-1", "own-2", "own-3"]
    assert book.record.not_tried == ("own-4",)
    assert (book.record.control, book.record.unfit) == (inspection(3), (("unfit", "why"),))


def test_before_any_defense_the_client_trains_and_members_are_found_with_shadows(
    book: AuditJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    book.clock, book.tell = StoppedClock(), said.append
    subject, given = small(), []
    summary = train(world(subject), 2, 60.0)

    def judge(*_: object, with_shadows: bool) -> tuple[tuple[()], None]:
        given.append(with_shadows)
        return (), None

    monkeypatch.setattr(defending, "train", lambda _world, *told: given.append(told) or summary)
    monkeypatch.setattr(defending, "_judge", judge)
    assert defending._baseline(book, subject, 2) is summary
    assert given == [(ROUNDS, 7.5), True]  # half of the quarter that members get
    assert said == ["trains for a few rounds, without further defenses"]
    assert book.record.training == summary.summary


def test_a_defense_that_refuses_passes_is_tried_with_poisson_sampling(
    book: AuditJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_passes(seen: object, _subject: object) -> None:
        checked.append(seen)
        if len(checked) == 1:
            raise FedsimError("it wants another sampling")

    checked: list[object] = []
    monkeypatch.setattr(defending, "check", refuse_passes)
    found, made = defending._sample(book, small(), 2, DefenseSetting("gradient-noise"))
    assert found == DefenseSetting("gradient-noise", sampling="poisson")
    assert len(checked) == 2
    assert checked[1] is made


@pytest.mark.parametrize(("defends", "seconds"), [(True, 15.0), (False, 57.0)])
def test_members_are_judged_in_a_share_of_the_time_and_as_many_as_the_training_touched(
    book: AuditJournal, monkeypatch: pytest.MonkeyPatch, defends: bool, seconds: float
) -> None:
    book.clock = StoppedClock()
    book.keep(plan=book.plan.model_copy(update={"defend": defends}))
    monkeypatch.setattr(defending.members, "count_candidates", lambda *_: 10**6)
    monkeypatch.setattr(defending.members, "cases_of", lambda _training, wanted: wanted)
    monkeypatch.setattr(defending.members, "judge_members", lambda *given, **_: given[2:])
    data = SimpleNamespace(train=None, test=None)
    subject: Any = SimpleNamespace(dataset=data, subject=SimpleNamespace(local_steps=3))
    training: Any = SimpleNamespace(summary=SimpleNamespace(batch_size=4))
    assert defending._judge(book, subject, training, with_shadows=True) == ((seconds, book.tell), ROUNDS * 4 * 3)


def test_what_a_defense_costs_is_what_it_adds(book: AuditJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = small()
    without = train(world(subject), 2, 60.0)
    more = {"loss": without.summary.loss + 2.0, "seconds_a_round": 3.0 * without.summary.seconds_a_round}
    after = replace(without, correct=torch.zeros(4), summary=without.summary.model_copy(update=more))
    before = replace(without, correct=torch.tensor([1.0, 1.0, 1.0, 0.0]))
    monkeypatch.setattr(defending, "train", lambda *_: after)
    defender = defending._Defender(book, subject, Inspector((), {}, book.tell), before, 2, 1, 1)
    found = defender._train(trial("pruning", 0, 0.0), DefenseSetting("pruning"))
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
    assert book.record.of("membership") == (), "four test examples are too few to judge members"
