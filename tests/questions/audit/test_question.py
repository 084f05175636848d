"""Audits of guarantees: what contradicts one is an alarm, and who cannot be audited is named before any training."""

from typing import Any

import pytest
from pydantic import ValidationError

from fedsim.core.errors import ScenarioError
from fedsim.privacy.coupled import Coupled
from fedsim.privacy.one_run import AuditResult, Plan
from fedsim.questions.audit import question as asking
from fedsim.questions.audit.question import AuditSettings, PrivacyAuditQuestion
from fedsim.questions.base import Evidence, QuestionContext
from fedsim.record import Finding, GuaranteeRecord
from fedsim.scenario import world as worlds
from tests.experiment.running import Build

STATED = GuaranteeRecord(
    source="s", epsilon=1.0, delta=1e-5, rdp_epsilon=1.5, accountant="PRV", unit="record", adjacency="add-or-remove",
    noise_multiplier=1.0, sampling_rate=0.01, steps=100, composition="100 steps", adversary="the server",
)  # fmt: skip
FOR_CLIENTS = STATED.model_copy(update={"source": "t", "unit": "client"})
NEAR = Coupled(neighbours=81, distance=0.98, max_distance=1.0, faults=())
SETTINGS = AuditSettings(canaries=10, guesses=8, client=2, confidence=0.9)


def asked(
    monkeypatch: pytest.MonkeyPatch,
    shown: float,
    *guarantees: GuaranteeRecord,
    power: float = 0.9,
    apart: float | None = 0.75,
    tried: Coupled | None = NEAR,
) -> tuple[list[Finding], Any]:
    """Return findings where canaries show this epsilon, and what was shown of the work; records are audited alone."""
    steps: list[Any] = []

    def audit_guarantee(_world: object, guarantee: GuaranteeRecord, **settings: Any) -> AuditResult:
        assert settings == {"canaries": 10, "guesses": 8, "runs": 1, "client": 2, "confidence": 0.9}
        return AuditResult(Plan(9, 8, 1, 0.95, power, 2.5), right=7, epsilon=shown, apart=apart, gap=1.0)

    monkeypatch.setattr(asking, "can_audit", lambda _world, guarantee: guarantee.unit == "record")
    monkeypatch.setattr(asking, "audit_guarantee", audit_guarantee)
    monkeypatch.setattr(asking, "try_neighbours", lambda *_: tried)
    work = QuestionContext(on_progress=lambda *about: steps.append(about))
    evidence = Evidence(None, None, guarantees=guarantees)  # type: ignore[arg-type]
    return list(PrivacyAuditQuestion(SETTINGS).run(evidence, work)), steps


@pytest.mark.parametrize(
    ("shown", "state"), [(0.5, "withstood"), (1.0, "withstood"), (1.01, "recovered"), (3.0, "recovered")]
)
def test_only_a_bound_above_the_stated_epsilon_contradicts_it(
    monkeypatch: pytest.MonkeyPatch, shown: float, state: str
) -> None:
    (own,), steps = asked(monkeypatch, shown, FOR_CLIENTS, STATED)
    assert own.label == "s"
    assert (own.metric, own.chance_level, own.state, own.n) == ("epsilon_lower_bound", 1.0, state, 9)
    assert (own.value.value, own.value.low, own.value.high) == (shown, shown, None)
    assert bool(own.alarm) is (state == "recovered")
    about = {
        "guesses": 8,
        "right": 7,
        "canaries": 9,
        "runs": 1,
        "delta": 1e-5,
        "at_most": 2.5,
        "power": 0.9,
        "neighbours": 81,
    }
    assert own.scope == about
    assert own.note == (
        "s states epsilon 1 at delta 1e-05; an audit with 9 canaries (7 of 8 guesses right) shows at least "
        f"{shown:.3g} (confidence 95%) of 2.5 that it could show at most. If noise is drawn apart for each canary, at "
        "least 0.75. Half of the stated noise would have been contradicted with a chance of 90%. With equal "
        "randomness, 81 pairs of neighbouring batches differ by at most 0.98 deviations of the noise; stated are 1."
    )
    assert steps == [("audit of s", 1, 1)]


def test_an_audit_that_could_show_little_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    (own,), _ = asked(monkeypatch, 0.5, STATED, power=0.79, apart=None, tried=None)
    assert "drawn apart" not in own.note
    assert "79%. This audit is too weak for this claim: take more canaries, or more runs. " in own.note
    assert own.note.endswith("Neighbouring batches were not compared: a round holds several private steps.")


def test_neighbours_that_differ_too_much_are_an_alarm_though_canaries_show_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    far = Coupled(neighbours=3, distance=2.0, max_distance=1.0, faults=("one record: it moves too much",))
    (own,), _ = asked(monkeypatch, 0.0, STATED, tried=far)
    assert "With equal randomness, one record: it moves too much. " in own.alarm
    assert own.note.endswith("With equal randomness, one record: it moves too much.")


def test_the_alarm_says_what_to_look_for(monkeypatch: pytest.MonkeyPatch) -> None:
    (own,), _ = asked(monkeypatch, 2.0, STATED)
    assert own.alarm.startswith("An audit contradicts a guarantee. s states epsilon 1")
    assert "check for missing noise" in own.alarm
    assert own.alarm.endswith("No epsilon of that arm is valid.")


def test_without_a_guarantee_for_a_record_there_is_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(monkeypatch, 2.0, FOR_CLIENTS) == ([], [])


def test_a_client_that_is_not_there_is_named_before_any_training(scenario: Build) -> None:
    table = {"canaries": 10, "guesses": 2}
    (fine,) = (world := worlds.build(scenario(audit={**table, "client": 0}))).questions
    fine.check(world)
    beyond = world.scenario.federation.clients
    (question,) = (world := worlds.build(scenario(audit={**table, "client": beyond}))).questions
    with pytest.raises(ScenarioError, match=f"audit.client is {beyond}, expected 0 to {beyond - 1}"):
        question.check(world)


def test_nobody_guesses_about_more_canaries_than_there_are() -> None:
    assert AuditSettings(canaries=100, guesses=100).guesses == 100
    with pytest.raises(ValidationError, match="guesses is 102, expected at most 100, the canaries"):
        AuditSettings(canaries=100, guesses=102)
    with pytest.raises(ValidationError, match="multiple of 2"):
        AuditSettings(guesses=3)


def test_canaries_have_classes(scenario: Build) -> None:
    tables = {"data": {"name": "diabetes"}, "audit": {"canaries": 10, "guesses": 2}}
    (question,) = (world := worlds.build(scenario(**tables))).questions
    with pytest.raises(ScenarioError, match="its canaries have a class each, and labels are numbers. Leave it out."):
        question.check(world)
