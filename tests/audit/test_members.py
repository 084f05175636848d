"""Membership attacks within an audit: how many can be judged, and what is said where no time is left."""

from dataclasses import replace

import pytest
import torch

from fedsim.audit import members
from fedsim.audit.training import Trained, trained
from fedsim.core import registry
from fedsim.core.types import Batch, ShadowPlan
from fedsim.scenario.world import World
from fedsim.threat import membership
from tests.audit.subjects import plan, small
from tests.audit.subjects import world as world_of


def of(count: int) -> Batch:
    return Batch(torch.zeros(count, 1), torch.zeros(count, dtype=torch.long))


@pytest.mark.parametrize(("own", "test", "judged"), [(40, 60, 30), (20, 60, 20), (500, 500, members.MOST), (5, 1, 0)])
def test_half_of_the_test_data_belong_to_the_attacker(own: int, test: int, judged: int) -> None:
    assert members.candidates(of(own), of(test)) == judged


@pytest.fixture(scope="module")
def victim() -> tuple[World, Trained]:
    assert plan().batches == (2,)
    own = world_of(small())
    return own, trained(own, 2, 60.0)


def by_plan() -> tuple[list[str], list[str]]:
    made = {name: own.make(own.config()) for name, own in registry.methods("membership").items()}
    return [n for n, own in made.items() if own.plan() is None], [n for n, own in made.items() if own.plan()]


def test_without_time_every_attack_says_what_it_lacked(victim: tuple[World, Trained]) -> None:
    told: list[str] = []
    records = members.judged(*victim, 0.0, told.append, 2, with_shadows=True)
    plain, shadowed = by_plan()
    assert [own.label for own in records[: len(plain)]] == plain, "those without shadow models come first"
    assert {own.label for own in records[len(plain) :]} == {*shadowed}
    assert all("for membership attacks were over" in (own.failure or "") for own in records[: len(plain)])
    assert all("shadow models" in (own.failure or "") for own in records[len(plain) :])
    assert told == [f"membership: {own.label}" for own in records]


def test_shadow_models_are_left_out_where_the_caller_says_so(victim: tuple[World, Trained]) -> None:
    records = members.judged(*victim, 0.0, lambda _said: None, 2, with_shadows=False)
    assert [own.label for own in records] == by_plan()[0]


def test_an_attack_that_fails_has_its_reason_and_the_next_one_runs(
    victim: tuple[World, Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise LookupError("no candidates")

    monkeypatch.setattr(members, "_judge", fail)
    records = members.judged(*victim, 60.0, lambda _said: None, 2, with_shadows=False)
    assert len(records) == len(by_plan()[0])
    assert all("LookupError: no candidates" in (own.failure or "") for own in records)


def test_what_is_left_out_for_lack_of_time_says_how_much_it_needs() -> None:
    assert members._too_long(None, 0.0, 12.3) == "the 12 s for membership attacks were over; give more minutes"
    said = members._too_long(ShadowPlan(count=16, with_candidates=True), 240.0, 30.0)
    assert said == (
        "its 16 shadow models take about 240 s, more than is left of the 30 s for membership attacks; give more minutes"
    )


def test_shadow_models_cost_as_much_as_so_many_trainings(victim: tuple[World, Trained]) -> None:
    _, training = victim
    summary = training.summary.model_copy(update={"rounds": 3, "seconds_a_round": 0.5})
    plan = ShadowPlan(count=16, with_candidates=True)
    assert members._cost(plan, replace(training, summary=summary)) == 16 * 3 * 0.5


def test_no_more_members_are_asked_for_than_were_trained_on(victim: tuple[World, Trained]) -> None:
    own, training = victim
    used = int((membership.count_training(own, training.journal.rounds) > 0).sum())
    found = members.judged(own, training, 60.0, lambda _said: None, used + 6, with_shadows=False)
    assert not [record.failure for record in found if "membership.candidates" in (record.failure or "")]
    assert {record.members for record in found if record.failure is None and record.target == "model"} == {used}
