"""Membership attacks: candidates and shadow models are made once, and a failure stays its own."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from fedsim.core import registry
from fedsim.core.types import Config
from fedsim.metrics.membership import Separation
from fedsim.questions.base import Evidence, QuestionContext
from fedsim.questions.membership import question as asking
from fedsim.questions.membership.hooks import MembershipAttack
from fedsim.questions.membership.question import Membership, MembershipQuestion
from fedsim.questions.membership.types import MembershipObservation, ShadowPlan
from fedsim.record import Finding, Interval

PLAN = ShadowPlan(3, with_candidates=True)
CANDIDATES = 7


class Own(MembershipAttack[Config]):
    """Scores by a rule that a test gives it."""

    wants: ShadowPlan | None = None
    fails = ""
    scores: Tensor | None = None
    seen: list[MembershipObservation]

    def plan(self) -> ShadowPlan | None:
        return self.wants

    def score(self, observation: MembershipObservation, generator: torch.Generator) -> Tensor:
        if self.fails:
            raise LookupError(self.fails)
        self.seen.append(observation)
        return torch.rand(2, generator=generator) if self.scores is None else self.scores


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes what is made; a case is an observation of two candidates, and an AUC is the first score."""
    made: list[str] = []

    def shadows(_seen: object, plan: ShadowPlan, _seed: int, told: Any) -> tuple[int, ...]:
        made.append("shadows")
        for number in range(1, plan.count + 1):
            told(number)
        return tuple(range(plan.count))

    def first_score(scores: Tensor, *_: object) -> Separation:
        auc = Interval(value=float(scores[0]), low=None, high=None, n=2)
        return Separation(auc=auc, advantage=0.0, rates={}, roc=((0.0, 0.0), (1.0, 1.0)))

    judge_against(monkeypatch, torch.tensor([True, False]), made)
    monkeypatch.setattr(asking.membership, "shadows", shadows)
    monkeypatch.setattr(asking, "separation", first_score)
    return made


def judge_against(monkeypatch: pytest.MonkeyPatch, is_member: Tensor, made: list[str]) -> None:
    """Have the model's case, and that of the updates of client 3, hold these candidates."""

    def case(target: str, wanted: int, client: int | None) -> Any:
        assert wanted == CANDIDATES
        made.append(target)
        own = observation(len(is_member))
        return SimpleNamespace(observation=own, is_member=is_member, client=client, rounds=(1, 4))

    monkeypatch.setattr(
        asking.membership, "observe_model", lambda _world, _journal, wanted, _salt: case("model", wanted, None)
    )
    monkeypatch.setattr(
        asking.membership, "observe_updates", lambda _world, _journal, _truths, wanted, _salt: case("update", wanted, 3)
    )
    monkeypatch.setattr(Own, "modalities", frozenset({"image"}))


def observation(candidates: int) -> MembershipObservation:
    task = SimpleNamespace(refuses_method=lambda _method: None)
    fields: dict[str, Any] = dict.fromkeys(MembershipObservation.__dataclass_fields__)
    return MembershipObservation(**{**fields, "task": task, "candidates": [0] * candidates, "shadows": {}})


def choice(
    label: str, wants: ShadowPlan | None = None, fails: str = "", scores: Tensor | None = None
) -> tuple[Any, Own]:
    own = Own(Config())
    own.wants, own.fails, own.scores, own.seen = wants, fails, scores, []
    return SimpleNamespace(report_name=label or "own", name="own", settings={"a": 1}, make=lambda _kind: own), own


def asked(
    *choices: tuple[Any, Own], told: list[Any] | None = None, work: QuestionContext | None = None
) -> list[Finding]:
    """Return the findings; what is shown and found is told in its order."""
    seen: list[Any] = [] if told is None else told
    scoring = SimpleNamespace(confidence=0.95, resamples=20)
    world = SimpleNamespace(scenario=SimpleNamespace(seed=3, scoring=scoring))
    config = SimpleNamespace(candidates=CANDIDATES, attacks=[own for own, _ in choices])
    found: list[Finding] = []
    work = work or QuestionContext(on_progress=lambda *about: seen.append(about))
    for finding in MembershipQuestion(config).run(Evidence(world, None), work):  # type: ignore[arg-type]
        seen.append(finding.label)
        found.append(finding)
    return found


def test_candidates_and_shadows_are_made_once_and_handed_to_those_who_ask(calls: list[str]) -> None:
    told: list[Any] = []
    plain, first, second = choice("plain"), choice("a", PLAN), choice("b", PLAN)
    asked(plain, first, second, told=told)
    assert calls == ["model", "shadows"]
    assert plain[1].seen[0].shadows == {}
    assert first[1].seen[0].shadows == second[1].seen[0].shadows == {PLAN: (0, 1, 2)}
    shown = [("a: shadow model", number, 3) for number in (1, 2, 3)]
    assert told == ["plain", *shown, "a", "b"]


def test_scores_depend_on_the_label_and_not_on_the_order(calls: list[str]) -> None:
    first = [own.value for own in asked(*(choice(label) for label in ("a", "b")))]
    second = [own.value for own in asked(*(choice(label) for label in ("b", "a")))]
    assert first == second[::-1]
    assert first[0] != first[1]


def test_an_attack_that_fails_says_why_and_the_next_one_runs(calls: list[str]) -> None:
    told: list[Any] = []
    failed, fine = asked(choice("a", fails="no candidate"), choice("b"), told=told)
    assert "LookupError: no candidate" in failed.failure
    assert (failed.scope, failed.value, failed.n, failed.state) == ({"target": "model"}, None, 0, "failed")
    assert fine.failure == ""
    assert told == ["a", "b"]


def test_an_attack_took_what_its_clock_says(monkeypatch: pytest.MonkeyPatch, calls: list[str]) -> None:
    monkeypatch.setattr(asking, "time", SimpleNamespace(perf_counter=iter((10.0, 13.0)).__next__))
    assert asked(choice("a"))[0].seconds == 3.0


def test_who_asks_to_stop_is_heard_between_two_attacks(calls: list[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        asked(choice("a"), work=QuestionContext(should_stop=lambda: True))


def test_a_finding_is_judged_at_the_rarest_false_alarms_that_so_many_candidates_support(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    is_member = torch.arange(400) // 2 % 2 == 0  # as many in either half, of even and of odd numbers
    judge_against(monkeypatch, is_member, [])
    perfect, none = asked(choice("all", scores=is_member.double()), choice("none", scores=torch.zeros(400).double()))
    assert (perfect.metric, perfect.settings) == ("tpr_at_fpr_0.01", {"a": 1})
    # Shuffled labels of two scores seldom leave only two of 200 others at the upper one.
    assert (perfect.chance_level, none.chance_level) == (0.0, 0.0)
    assert perfect.value.value == 1.0
    assert perfect.scope == {"target": "model", "members": 200, "non_members": 200}
    assert {name: own.value for name, own in perfect.extra_metrics.items()} == {
        "auc": 1.0, "tpr_at_fpr_0.1": 1.0, "advantage": 1.0
    }  # fmt: skip
    assert perfect.state == "recovered"
    assert (none.extra_metrics["auc"].value, none.state) == (0.5, "withstood")


def test_few_candidates_leave_the_auc_and_the_curve_is_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    judge_against(monkeypatch, torch.tensor([True, False] * 4), [])
    work = QuestionContext()
    (own,) = asked(choice("few", scores=torch.tensor([1.0, 0.0] * 4)), work=work)
    assert (own.metric, own.chance_level, own.n) == ("auc", 0.5, 8)
    assert own.items == "membership/few/roc"
    table = work.items[own.items]
    assert (table["fpr"], table["tpr"]) == ([0.0, 1.0], [1.0, 1.0])


def test_an_attack_on_updates_names_their_client_and_rounds(monkeypatch: pytest.MonkeyPatch, calls: list[str]) -> None:
    monkeypatch.setattr(Own, "target", "update")
    (own,) = asked(choice("a"))
    assert calls == ["update"]
    assert own.scope == {"target": "update", "members": 1, "non_members": 1, "client": 3, "rounds": "1, 4"}


def test_its_table_names_at_least_one_attack_and_each_by_its_own_label() -> None:
    assert registry.get("question", "membership").make is MembershipQuestion
    own = Membership.model_validate({"attacks": [{"name": "lira"}, {"name": "lira", "label": "b"}]})
    assert [attack.report_name for attack in own.attacks] == ["lira", "b"]
    with pytest.raises(ValidationError, match="at least 1 item"):
        Membership.model_validate({"attacks": []})
    with pytest.raises(ValidationError, match="two attacks are reported as 'a'. Set 'label' in either"):
        Membership.model_validate({"attacks": [{"name": "lira", "label": "a"}, {"name": "rmia", "label": "a"}]})
