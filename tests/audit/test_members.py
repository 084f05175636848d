"""Membership attacks within an audit: how many can be judged, and what is said where no time is left."""

import math
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fedsim.audit import members
from fedsim.audit.single_client import ROUNDS
from fedsim.audit.training import TrainedClient, train
from fedsim.core import registry
from fedsim.core.types import Batch
from fedsim.questions.base import QuestionContext
from fedsim.questions.membership import observe as membership
from fedsim.questions.membership.hooks import MembershipAttack
from fedsim.questions.membership.question import MembershipChoice
from fedsim.questions.membership.types import ShadowPlan
from fedsim.record import Finding
from tests.audit.subjects import plan, small
from tests.audit.subjects import world as world_of


def of(count: int) -> Batch:
    return Batch(torch.zeros(count, 1), torch.zeros(count, dtype=torch.long))


def trained_on(train: int, test: int, steps: int) -> Any:
    """Return a client that was trained on so many examples, in batches of one."""
    data = SimpleNamespace(dataset=SimpleNamespace(train=of(train), test=of(test)))
    scenario = SimpleNamespace(federation=SimpleNamespace(batch_size=1, local_steps=steps))
    return SimpleNamespace(evidence=SimpleNamespace(world=SimpleNamespace(data=data, scenario=scenario)))


@pytest.mark.parametrize(
    ("own", "test", "steps", "judged"),
    [(40, 60, 5, 30), (20, 60, 5, 20), (500, 500, 9, members.MOST), (5, 1, 5, 0), (500, 500, 3, ROUNDS * 3)],
)
def test_half_of_the_test_data_belong_to_the_attacker_and_members_are_those_that_a_training_touches(
    own: int, test: int, steps: int, judged: int
) -> None:
    assert members.count_candidates(trained_on(own, test, steps)) == judged


@pytest.fixture(scope="module")
def victim() -> TrainedClient:
    assert plan().batches == (2,)
    return train(world_of(small()), 2, 60.0)


def judged(training: TrainedClient, seconds: float, attacks: list[MembershipChoice], told: Any = None) -> list[Finding]:
    cases, tell = members.cases_of(training, QuestionContext()), told or (lambda _said: None)
    return list(members.judge_within(seconds, attacks, cases, training, tell))


def by_plan() -> tuple[list[str], list[str]]:
    made = {name: own.make(own.config()) for name, own in registry.methods("attack", MembershipAttack).items()}
    return [n for n, own in made.items() if own.plan() is None], [n for n, own in made.items() if own.plan()]


def test_without_time_every_attack_says_what_it_lacked(victim: TrainedClient) -> None:
    told: list[str] = []
    records = judged(victim, 0.0, members.attacks(), told.append)
    plain, shadowed = by_plan()
    assert [own.label for own in records[: len(plain)]] == plain, "those without shadow models come first"
    assert {own.label for own in records[len(plain) :]} == {*shadowed}
    assert all("for membership attacks were over" in own.failure for own in records[: len(plain)])
    assert all("shadow models" in own.failure for own in records[len(plain) :])
    assert told == [f"membership: {own.label}" for own in records]


def test_attacks_without_shadow_models_are_those_without_a_plan() -> None:
    assert [choice.name for choice in members.attacks_without_shadows()] == by_plan()[0]


def test_an_attack_that_the_clock_ends_says_so_and_the_next_one_lacks_time(
    victim: TrainedClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the wall-clock limit ends the attack: no processor seconds are left for the next attack."""

    told: list[str] = []

    def compute_first(said: str) -> None:
        told.append(said)
        begin = time.process_time()
        while len(told) == 1 and time.process_time() - begin < 0.05:
            math.sqrt(2.0)

    def hang(*_: object) -> None:
        while True:
            time.sleep(0.01)

    monkeypatch.setattr("fedsim.core.time_budget.WALL_LIMIT", 30.0)
    monkeypatch.setattr("fedsim.questions.membership.question.judge", hang)
    first, second, *_ = judged(victim, 0.1, members.attacks_without_shadows(), compute_first)
    assert first.failure == "its time was over"
    assert second.failure == "the 0 s for membership attacks were over; give more minutes"


def test_an_attack_that_fails_has_its_reason_and_the_next_one_runs(
    victim: TrainedClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise LookupError("no candidates")

    monkeypatch.setattr("fedsim.questions.membership.question.judge", fail)
    records = judged(victim, 60.0, members.attacks_without_shadows())
    assert len(records) == len(by_plan()[0])
    assert all("LookupError: no candidates" in own.failure for own in records)


def test_what_is_left_out_for_lack_of_time_says_how_much_it_needs() -> None:
    assert members.too_long(None, 0.0, 12.3) == "the 12 s for membership attacks were over; give more minutes"
    said = members.too_long(ShadowPlan(count=16, with_candidates=True), 240.0, 30.0)
    assert said == (
        "its 16 shadow models take about 240 s, more than is left of the 30 s for membership attacks; give more minutes"
    )


def test_shadow_models_cost_as_much_as_so_many_trainings(victim: TrainedClient) -> None:
    summary = victim.summary.model_copy(update={"rounds": 3, "seconds_a_round": 0.5})
    plan = ShadowPlan(count=16, with_candidates=True)
    assert members.cost_of(plan, replace(victim, summary=summary)) == 16 * 3 * 0.5


def test_no_more_members_are_asked_for_than_were_trained_on(
    victim: TrainedClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    evidence = victim.evidence
    used = int((membership.count_training(evidence.world, evidence.journal.rounds) > 0).sum())
    monkeypatch.setattr(members, "count_candidates", lambda _training: used + 6)
    findings = judged(victim, 60.0, members.attacks_without_shadows())
    assert not [own.failure for own in findings if "membership.candidates" in own.failure]
    of_model = [own for own in findings if not own.failure and own.scope["target"] == "model"]
    assert {own.scope["members"] for own in of_model} == {used}
