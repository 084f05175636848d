"""Attacks on attributes of an arm: changes are made once for all that ask alike, and a failure stays its own."""

from types import SimpleNamespace
from typing import Any

import pytest

from fedsim.core.errors import NotApplicable
from fedsim.experiment import attributes
from fedsim.experiment.attributes import ask
from fedsim.record import AttributeRecord


def choice(title: str, attribute: str) -> Any:
    return SimpleNamespace(title=title, name="own", settings={}, attribute=attribute)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Notes which changes are made for whom; the attack `refuses` does, and the attribute `none` cannot be made."""
    made: list[Any] = []

    def told(_world: object, name: str, entries: tuple[Any, ...], attacks: dict[str, Any], on_change: Any) -> Any:
        if name == "none":
            raise LookupError("no such attribute")
        on_change(1, 2)
        made.append((name, len(entries), sorted(attacks)))
        return name

    def judged(record: AttributeRecord, attack: str, rounds: list[str], _world: object) -> AttributeRecord:
        if attack == "refuses":
            raise NotApplicable("it refuses")
        return record.model_copy(update={"updates": len(rounds)})

    monkeypatch.setattr(attributes.attributes, "told", told)
    monkeypatch.setattr(attributes.attributes, "judged", judged)
    return made


def asked(*choices: Any, told: list[Any]) -> tuple[AttributeRecord, ...]:
    world = SimpleNamespace(scenario=SimpleNamespace(attributes=SimpleNamespace(attacks=choices)))
    journal = SimpleNamespace(entries=[SimpleNamespace(round=number) for number in (1, 1, 2)])
    watcher = SimpleNamespace(read=lambda record: told.append(record.label), public=lambda *about: told.append(about))
    run = SimpleNamespace(look_up=lambda: None, watcher=watcher)
    return ask(run, world, journal, lambda own: own.title)  # type: ignore[arg-type, return-value]


def test_attacks_on_one_attribute_share_its_changes_and_records_keep_the_order(calls: list[Any]) -> None:
    told: list[Any] = []
    found = asked(choice("a", "topic"), choice("b", "name"), choice("c", "topic"), told=told)
    assert [own.label for own in found] == ["a", "b", "c"]
    assert [own.updates for own in found] == [2, 2, 2]
    assert calls == [("topic", 2, ["a", "c"]), ("topic", 1, ["a", "c"]), ("name", 2, ["b"]), ("name", 1, ["b"])]
    assert told == [("topic", 1, 2), ("topic", 1, 2), "a", "c", ("name", 1, 2), ("name", 1, 2), "b"]


def test_who_fails_says_why_and_the_others_go_on(calls: list[Any]) -> None:
    told: list[Any] = []
    refused, lost, fine = asked(choice("refuses", "topic"), choice("a", "none"), choice("b", "topic"), told=told)
    assert refused.failure == "it refuses"
    assert "LookupError: no such attribute" in (lost.failure or "")
    assert (fine.failure, fine.updates) == (None, 2)
    assert [own for own in told if isinstance(own, str)] == ["refuses", "b", "a"]
