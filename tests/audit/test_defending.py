"""Which defenses are tried, in which order, and that one which fails ends alone."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from fedsim.audit import defending, page
from fedsim.audit.arms import ArmAuditor
from fedsim.audit.record import AuditArm
from fedsim.audit.session import AuditSession
from fedsim.audit.training import train
from fedsim.audit.update_attacks import UpdateAttacker
from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import Defense
from fedsim.core.time_budget import TimeBudget, TimeBudgetExceeded
from fedsim.judgement.policy import Policy
from tests.audit.clocks import StoppedClock
from tests.audit.findings import as_control, attacked, failed, record
from tests.audit.subjects import small, world

PRUNING = AuditArm(kind="defense", name="pruning", defense="pruning", batch_size=2)


@pytest.fixture
def book(tmp_path: Path) -> AuditSession:
    return AuditSession(tmp_path, TimeBudget(60), record(Policy(), control=None), lambda _said: None)


def test_a_defense_that_the_client_has_is_not_tried_and_guarantees_come_first(book: AuditSession) -> None:
    book.keep(client_defenses=({"name": "pruning"},))
    fitting, unfit = defending._fitting_arms(ArmAuditor.of(book, small()), 2)
    tried = {own.defense for own in fitting} | {label.partition(" ")[0] for label, _ in unfit}
    methods = registry.methods("defense", Defense)
    assert tried == {name for name, method in methods.items() if method.tier != "baseline"} - {"pruning"}
    assert all(reason for _, reason in unfit)
    reads = {
        own.name: defending._reads_steps(methods[own.defense].make(methods[own.defense].config())) for own in fitting
    }
    order = [("dp" not in own.defense, reads[own.name], own.name) for own in fitting]
    assert order == sorted(order)
    assert {first for first, _, _ in order} == {second for _, second, _ in order} == {True, False}
    assert [own.defense for own in fitting].count("gradient-noise") == 1 + len(defending._STRONGER["gradient-noise"])


@pytest.mark.parametrize(
    ("error", "told"), [(LookupError("no layer"), "LookupError: no layer"), (TimeBudgetExceeded(), "s were not enough")]
)
def test_a_defense_that_fails_or_takes_too_long_is_a_trial_with_a_reason(
    book: AuditSession, monkeypatch: pytest.MonkeyPatch, error: BaseException, told: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    without = train(world(small()), 2, 60.0)
    monkeypatch.setattr("fedsim.audit.arms.world_of", fail)
    auditor = ArmAuditor.of(book, small())
    defender = defending._Defender(auditor, without, 1, 1)
    arm = auditor.attempt(PRUNING, partial(defender.ask, seconds=30.0))
    assert (arm.kind, arm.name, arm.findings, arm.training) == ("defense", "pruning", (), None)
    assert told in arm.failure
    assert book.record.defense_arms == (arm,)


def test_what_a_defense_stopped_is_kept_where_its_training_fails(
    book: AuditSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise LookupError("no step")

    without = train(world(small()), 2, 60.0)
    monkeypatch.setattr(ArmAuditor, "train", fail)
    auditor = ArmAuditor.of(book, small())
    defender = defending._Defender(auditor, without, 1, 1)
    arm = auditor.attempt(PRUNING, partial(defender.ask, seconds=30.0))
    assert arm.failure.startswith("LookupError: no step")
    assert len(arm.victims) == 1
    assert arm.seconds > 0


class Reached(Exception):
    """The step that a test waits for."""


@pytest.mark.parametrize(
    "arms",
    [
        (attacked(2, batch=1), attacked(4, batch=8), attacked(4, batch=4), attacked(0, batch=2)),
        (failed("it normalises over batches", batch=1), attacked(0, batch=4)),
    ],
)
def test_defenses_are_tried_on_the_smallest_batch_of_those_that_work_and_leaked_most(
    book: AuditSession, monkeypatch: pytest.MonkeyPatch, arms: tuple[AuditArm, ...]
) -> None:
    def fitting(_auditor: ArmAuditor, size: int) -> None:
        raise Reached(size)

    book.keep(arms=arms)
    monkeypatch.setattr(defending, "_fitting_arms", fitting)
    with pytest.raises(Reached) as reached:
        defending.try_defenses(book, small(), train(world(small()), 2, 60.0))
    assert reached.value.args == (4,)


def test_each_defense_gets_its_share_of_the_time_until_none_is_left(
    book: AuditSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    book.clock = clock = StoppedClock()
    arms = [PRUNING.model_copy(update={"name": f"own-{number}"}) for number in range(5)]  # and the control: six shares
    given: list[tuple[str, float]] = []
    taken = iter((20.0, 20.0, 19.0, 1.0))

    def ask(_self: object, arm: AuditArm, seconds: float) -> None:
        given.append((arm.name, seconds))
        clock.now += next(taken)

    control = as_control(attacked(3))
    monkeypatch.setattr(defending, "_fitting_arms", lambda *_: (arms, (("unfit", "why"),)))
    monkeypatch.setattr(UpdateAttacker, "iterations", lambda *_: 7)
    monkeypatch.setattr(UpdateAttacker, "inspect", lambda *_: control.attacks[0])
    monkeypatch.setattr(defending._Defender, "ask", ask)
    defending.try_defenses(book, small(), train(world(small()), 2, 60.0))
    assert given == [("own-0", 20.0), ("own-1", 20.0), ("own-2", 20.0), ("own-3", 1.0)]
    assert book.record.not_tried == ("own-4",)
    assert book.record.control.findings == control.findings
    assert book.record.unfit == (("unfit", "why"),)


def test_where_the_control_withstands_no_defense_is_tried(book: AuditSession, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(_self: object, arm: AuditArm, seconds: float) -> None:
        pytest.fail(f"{arm.name} was tried for {seconds} s")

    arms = [PRUNING.model_copy(update={"name": f"own-{number}"}) for number in range(2)]
    monkeypatch.setattr(defending, "_fitting_arms", lambda *_: (arms, ()))
    monkeypatch.setattr(UpdateAttacker, "iterations", lambda *_: 7)
    monkeypatch.setattr(UpdateAttacker, "inspect", lambda *_: as_control(attacked(0)).attacks[0])
    monkeypatch.setattr(defending._Defender, "ask", ask)
    defending.try_defenses(book, small(), train(world(small()), 2, 60.0))
    assert (book.record.defense_arms, book.record.not_tried) == ((), ("own-0", "own-1"))
    assert list(page._not_tried(book.record)) == [
        "own-0: nothing was recovered without it either",
        "own-1: nothing was recovered without it either",
    ]


def test_a_defense_that_refuses_passes_is_tried_with_poisson_sampling(
    book: AuditSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_passes(seen: object, _subject: object) -> None:
        checked.append(seen)
        if len(checked) == 1:
            raise FedsimError("it wants another sampling")

    checked: list[object] = []
    monkeypatch.setattr("fedsim.audit.arms.check", refuse_passes)
    found, made = defending._sample(ArmAuditor.of(book, small()), PRUNING)
    assert found == PRUNING.model_copy(update={"sampling": "poisson"})
    assert len(checked) == 2
    assert checked[1] is made


def test_what_a_defense_costs_is_what_it_adds(book: AuditSession, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = small()
    without = train(world(subject), 2, 60.0)
    more = {"loss": without.summary.loss + 2.0, "seconds_a_round": 3.0 * without.summary.seconds_a_round}
    after = replace(without, correct=torch.zeros(4), summary=without.summary.model_copy(update=more))
    before = replace(without, correct=torch.tensor([1.0, 1.0, 1.0, 0.0]))
    monkeypatch.setattr("fedsim.audit.arms.train", lambda *_: after)
    arm = defending._Defender(ArmAuditor.of(book, subject), before, 1, 1).ask(PRUNING, 30.0)
    assert arm.cost.loss_change == pytest.approx(2.0)
    assert arm.cost.slowdown == pytest.approx(3.0)
    assert arm.cost.accuracy_loss.value == 0.75
    assert book.record.defense_arms == (arm,)
