"""Attacks on attributes: changes are made once for all that ask alike, and a failure stays its own."""

from contextlib import nullcontext
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from fedsim.core import registry
from fedsim.core.errors import NotApplicable
from fedsim.questions.attributes import question as asking
from fedsim.questions.attributes.observe import LABEL, AttributeAccuracy
from fedsim.questions.attributes.question import AttributeChoice, AttributeQuestion, Attributes
from fedsim.questions.base import Evidence, QuestionContext
from fedsim.record import Finding, Interval


def choice(title: str, attribute: str) -> AttributeChoice:
    return AttributeChoice(name="change-norms", attribute=attribute, label=title, settings={})


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Notes which changes are made for whom; the attack `refuses` does, and the attribute `none` cannot be made."""
    made: list[Any] = []

    def describe_round(
        _world: object,
        name: str,
        entries: tuple[Any, ...],
        attacks: dict[str, Any],
        public: int,
        on_change: Any,
        salt: bytes,
    ) -> Any:
        assert salt == b""
        if name == "none":
            raise LookupError("no such attribute")
        on_change(1, public)
        made.append((name, len(entries), sorted(attacks)))
        return name

    def score(label: str, _attribute: str, attack: str, rounds: list[str], _world: object) -> AttributeAccuracy:
        assert label == attack
        if attack == "refuses":
            raise NotApplicable("it refuses")
        right, permuted = (Interval(value=value, low=None, high=None, n=len(rounds)) for value in (0.9, 0.5))
        return AttributeAccuracy(right, permuted, chance=0.5, values=("even", "odd"), left_out=1, public=64)

    monkeypatch.setattr(asking.attributes, "describe_round", describe_round)
    monkeypatch.setattr(asking.attributes, "score", score)
    return made


def starting(choice: Any, _should_stop: object) -> Any:
    """Start an attack that is its own title."""
    return nullcontext(choice.report_name)


def asked(*choices: AttributeChoice, told: list[Any]) -> list[Finding]:
    journal = SimpleNamespace(entries=[SimpleNamespace(round=number) for number in (1, 1, 2)])
    evidence = Evidence(SimpleNamespace(), journal)  # type: ignore[arg-type]
    work = QuestionContext(starting, on_progress=lambda *about: told.append(about))
    findings: list[Finding] = []
    for finding in AttributeQuestion(Attributes(attacks=choices, public=2)).run(evidence, work):
        told.append(finding.label)
        findings.append(finding)
    return findings


def test_attacks_on_one_attribute_share_its_changes_and_each_stands_beside_its_control(calls: list[Any]) -> None:
    told: list[Any] = []
    found = asked(choice("a", "topic"), choice("b", "name"), choice("c", "topic"), told=told)
    assert [own.label for own in found] == [
        "a", "a, values permuted", "c", "c, values permuted", "b", "b, values permuted"
    ]  # fmt: skip
    assert [own.n for own in found] == [2] * 6
    assert [(own.role, own.value.value) for own in found[:2] if own.value] == [
        ("attack", 0.9),
        ("negative-control", 0.5),
    ]
    assert all(own.chance_level == 0.5 for own in found)
    assert found[0].scope == {"attribute": "topic", "values": 2, "public": 64, "left out": 1}
    assert calls == [("topic", 2, ["a", "c"]), ("topic", 1, ["a", "c"]), ("name", 2, ["b"]), ("name", 1, ["b"])]
    topic, name = (f"{own}: changes of public examples" for own in ("topic", "name"))
    assert told == [
        (topic, 1, 2), (topic, 1, 2), "a", "a, values permuted", "c", "c, values permuted",
        (name, 1, 2), (name, 1, 2), "b", "b, values permuted",
    ]  # fmt: skip


def test_attacks_on_one_attribute_share_the_time_of_its_changes(
    calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "time", SimpleNamespace(perf_counter=count(10.0).__next__))  # every look is a second
    found = asked(choice("a", "topic"), choice("refuses", "topic"), choice("b", "name"), told=[])
    assert [(own.label, own.seconds) for own in found if own.role == "attack"] == [
        ("a", 1.5), ("refuses", 1.5), ("b", 2.0)
    ]  # fmt: skip


def test_it_is_registered_and_checks_each_attribute_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[Any] = []
    monkeypatch.setattr(asking.attributes, "check", lambda *given: checked.append(given))
    question = AttributeQuestion(Attributes(attacks=(choice("a", "topic"), choice("b", "name"))))
    question.check("world")  # type: ignore[arg-type]
    assert checked == [("world", ["topic", "name"])]
    assert registry.get("question", "attributes").make is AttributeQuestion


def test_who_fails_says_why_and_the_others_go_on(calls: list[Any]) -> None:
    told: list[Any] = []
    refused, fine, control, lost = asked(
        choice("refuses", "topic"), choice("a", "none"), choice("b", "topic"), told=told
    )
    assert (refused.failure, refused.state) == ("it refuses", "failed")
    assert "LookupError: no such attribute" in lost.failure
    assert (fine.failure, fine.n, control.role) == ("", 2, "negative-control")
    assert [own for own in told if isinstance(own, str)] == ["refuses", "b", "b, values permuted", "a"]


def test_the_label_must_be_read(calls: list[Any]) -> None:
    label, control = asked(choice("a", LABEL), told=[])
    assert (label.role, control.role) == ("positive-control", "negative-control")


def test_who_asks_to_stop_is_heard_before_a_change_is_computed(calls: list[Any]) -> None:
    journal = SimpleNamespace(entries=[SimpleNamespace(round=1)])
    question = AttributeQuestion(Attributes(attacks=(choice("a", "topic"),)))
    with pytest.raises(KeyboardInterrupt):
        next(question.run(Evidence(SimpleNamespace(), journal), QuestionContext(starting, lambda: True)))  # type: ignore[arg-type]
    assert calls == []


def test_two_attacks_of_one_title_are_refused() -> None:
    plain = {"name": "change-norms", "attribute": "parity"}
    message = r"two attacks are reported as 'change-norms \(parity\)'. Set 'label' in either"
    with pytest.raises(ValidationError, match=message):
        Attributes.model_validate({"attacks": [plain, plain]})
    own = Attributes.model_validate({"attacks": [plain, {**plain, "label": "b"}]})
    assert [attack.report_name for attack in own.attacks] == ["change-norms (parity)", "b"]


def test_its_attacker_is_described() -> None:
    question = AttributeQuestion(Attributes(attacks=(choice("a", "topic"), choice("b", "name")), public=3))
    (sentence,) = question.describe_attacker()
    assert sentence.startswith("Attacks on attributes ask of every attacked update: topic, name.")
    assert "compute 3 changes for each value" in sentence
