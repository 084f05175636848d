"""Membership attacks of an arm: candidates and shadow models are made once, and a failure stays its own."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from fedsim.core.hooks import MembershipAttack
from fedsim.core.types import Config, MembershipObservation, ShadowPlan
from fedsim.experiment import inference
from fedsim.experiment.inference import Inference
from fedsim.record import MembershipRecord

PLAN = ShadowPlan(3, with_candidates=True)


class Own(MembershipAttack[Config]):
    """Scores by a rule that a test gives it."""

    wants: ShadowPlan | None = None
    fails = ""
    seen: list[MembershipObservation]

    def plan(self) -> ShadowPlan | None:
        return self.wants

    def score(self, observation: MembershipObservation, generator: torch.Generator) -> Tensor:
        if self.fails:
            raise LookupError(self.fails)
        self.seen.append(observation)
        return torch.rand(2, generator=generator)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes what is made; a case is an observation of two candidates, and a record keeps the scores."""
    made: list[str] = []

    def case(target: str) -> Any:
        made.append(target)
        return SimpleNamespace(observation=observation())

    def shadows(_seen: object, plan: ShadowPlan, _seed: int, told: Any) -> tuple[int, ...]:
        made.append("shadows")
        for number in range(1, plan.count + 1):
            told(number)
        return tuple(range(plan.count))

    def judged(record: MembershipRecord, _case: object, scores: Tensor, *_: object) -> MembershipRecord:
        return record.model_copy(update={"settings": {"scores": scores.tolist()}})

    monkeypatch.setattr(inference.membership, "of_model", lambda *_: case("model"))
    monkeypatch.setattr(inference.membership, "of_updates", lambda *_: case("updates"))
    monkeypatch.setattr(inference.membership, "shadows", shadows)
    monkeypatch.setattr(inference.membership, "judged", judged)
    monkeypatch.setattr(Own, "modalities", frozenset({"image"}))
    return made


def observation() -> MembershipObservation:
    task = SimpleNamespace(does_not_suit=lambda _modalities: None)
    fields = dict.fromkeys(MembershipObservation.__dataclass_fields__)
    return MembershipObservation(**{**fields, "task": task, "candidates": [0, 1], "shadows": {}})  # type: ignore[arg-type]


class Watcher:
    def __init__(self) -> None:
        self.told: list[Any] = []

    def judged(self, record: MembershipRecord) -> None:
        self.told.append(record.label)

    def shadow(self, label: str, number: int, count: int) -> None:
        self.told.append((label, number, count))


def begun() -> tuple[Inference, Watcher]:
    watcher = Watcher()
    run = SimpleNamespace(watcher=watcher, look_up=lambda: None)
    world = SimpleNamespace(scenario=SimpleNamespace(seed=3))
    return Inference(run, world, None, ()), watcher  # type: ignore[arg-type]


def choice(label: str, wants: ShadowPlan | None = None, fails: str = "") -> tuple[Any, Own]:
    own = Own(Config())
    own.wants, own.fails, own.seen = wants, fails, []
    return SimpleNamespace(label=label, name="own", settings={}, make=lambda _kind: own), own


def test_candidates_and_shadows_are_made_once_and_handed_to_those_who_ask(calls: list[str]) -> None:
    inference_, watcher = begun()
    plain, first, second = choice("plain"), choice("a", PLAN), choice("b", PLAN)
    for asked, _ in (plain, first, second):
        inference_.record(asked)
    assert calls == ["model", "shadows"]
    assert plain[1].seen[0].shadows == {}
    assert first[1].seen[0].shadows == second[1].seen[0].shadows == {PLAN: (0, 1, 2)}
    assert watcher.told == ["plain", ("a", 1, 3), ("a", 2, 3), ("a", 3, 3), "a", "b"]


def test_scores_depend_on_the_label_and_not_on_the_order(calls: list[str]) -> None:
    one, two = begun()[0], begun()[0]
    first = [one.record(choice(label)[0]).settings["scores"] for label in ("a", "b")]
    second = [two.record(choice(label)[0]).settings["scores"] for label in ("b", "a")]
    assert first == second[::-1]
    assert first[0] != first[1]


def test_an_attack_that_fails_says_why_and_the_next_one_runs(calls: list[str]) -> None:
    inference_, watcher = begun()
    failed = inference_.record(choice("a", fails="no candidate")[0])
    assert "LookupError: no candidate" in (failed.failure or "")
    assert (failed.members, failed.summary) == (0, None)
    assert inference_.record(choice("b")[0]).failure is None
    assert watcher.told == ["a", "b"]
