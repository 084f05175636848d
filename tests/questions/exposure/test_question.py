"""Exposure: one finding for secrets of a kind that were planted equally often; those left out are the control."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedsim.metrics.exposure import SecretScore
from fedsim.questions.base import Evidence, QuestionContext
from fedsim.questions.exposure import question as asking
from fedsim.questions.exposure.question import Exposure, ExposureQuestion
from fedsim.record import Finding, Interval
from fedsim.scenario import Scoring


def secret(text: str, repetitions: int, guess: str, bits: float, **more: Any) -> SecretScore:
    return SecretScore(
        kind="canary", text=text, repetitions=repetitions, uses=repetitions, exposure=bits, candidates=7, is_exact=True,
        guess=guess, extracted=text == guess, **more,
    )  # fmt: skip


UNSEEN = [secret(f"n{bits}", 0, "x", bits) for bits in (0.0, 0.4, 0.8, 1.2, 1.6, 3.0)]
KNOWN = (
    *(secret(name, 1500, "a", 3.0) for name in "abcdef"),  # of at most 3 bits: the first among eight
    *UNSEEN,
)


def asked(
    monkeypatch: pytest.MonkeyPatch, secrets: tuple[SecretScore, ...] = KNOWN, **settings: int
) -> tuple[list[Finding], QuestionContext, list[dict[str, int]]]:
    seen: list[dict[str, int]] = []

    def measure(_world: object, _journal: object, **own: int) -> tuple[SecretScore, ...]:
        seen.append(own)
        return secrets

    monkeypatch.setattr(asking.memorisation, "measure_exposure", measure)
    work = QuestionContext()
    world: Any = SimpleNamespace(scenario=SimpleNamespace(seed=3, scoring=Scoring()))
    evidence = Evidence(world, None)  # type: ignore[arg-type]
    return list(ExposureQuestion(Exposure(**settings)).run(evidence, work)), work, seen


def test_what_was_learned_is_above_chance_and_what_was_left_out_is_its_control(monkeypatch: pytest.MonkeyPatch) -> None:
    (control, often), _, seen = asked(monkeypatch, candidates=7, search=0, emission=0)
    assert seen == [{"candidates": 7, "search": 0, "emission": 0}]
    assert (often.label, often.role, often.state) == ("canary x 1500", "attack", "recovered")
    assert (control.label, control.role, control.state) == ("canary x 0", "negative-control", "withstood")
    assert (often.value, often.max_value) == (Interval(value=3.0, low=3.0, high=3.0, n=6), 3.0)
    assert often.scope == {"secrets": "canary", "repetitions": 1500}
    assert often.extra_metrics["secret_extraction_rate"].value == 1 / 6
    assert control.value.value == pytest.approx(7 / 6)
    assert control.extra_metrics.keys() == {"secret_extraction_rate"}, "nobody searched, and nobody estimated"


def test_what_a_search_gave_and_what_runs_estimate_stands_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    written = (0.25, 0.75)
    secrets = tuple(
        secret(name, 4, "x", 1.0, likeliest=text, emission=written) for name, text in (("a", "a"), ("b", None))
    )
    (own,), _, seen = asked(monkeypatch, secrets, search=5, emission=2)
    assert seen == [{"candidates": 1000, "search": 5, "emission": 2}]
    assert (
        own.extra_metrics["likeliest"].value,
        own.extra_metrics["emission"].value,
        own.extra_metrics["emission"].n,
    ) == (0.5, 0.5, 2)
    (lost,), *_ = asked(monkeypatch, (secret("b", 4, "x", 1.0),), search=5)
    assert lost.extra_metrics["likeliest"].value == 0.0, "a search that gave up did not succeed"


def test_secrets_are_a_table_that_both_refer_to(monkeypatch: pytest.MonkeyPatch) -> None:
    found, work, _ = asked(monkeypatch)
    assert {own.items for own in found} == set(work.items) == {"exposure/secrets"}
    table = work.items["exposure/secrets"]
    assert table["text"][:3] == ["a", "b", "c"]
    assert table["guess"] == ["a"] * 6 + ["x"] * 6
    assert table["extracted"] == [True] + [False] * 11
    assert {len(column) for column in table.values()} == {12}


def test_chance_is_the_mean_exposure_of_a_rank_that_is_uniform(monkeypatch: pytest.MonkeyPatch) -> None:
    (own, _), *_ = asked(monkeypatch)
    ranks = np.arange(1, 9)  # exposure is at most 3 bits: among eight sentences
    assert own.chance_level == pytest.approx(float(np.log2(len(ranks) / ranks).mean()))
