"""Exposure: one finding for secrets of a kind that were planted equally often; those left out are the control."""

from typing import Any

import numpy as np
import pytest

from fedsim.questions import Evidence, Work
from fedsim.questions import exposure as asking
from fedsim.questions.exposure import Exposure, WhatWasMemorised
from fedsim.record import ExposureRecord, Finding, Interval, SecretScore, SecretSummary


def secret(text: str, repetitions: int, guess: str) -> SecretScore:
    return SecretScore(
        kind="canary", text=text, repetitions=repetitions, uses=repetitions, exposure=3.0, candidates=8, is_exact=True,
        guess=guess, extracted=text == guess,
    )  # fmt: skip


def summary(repetitions: int, exposure: Interval, written: float, **more: Any) -> SecretSummary:
    return SecretSummary(
        kind="canary", repetitions=repetitions, exposure=exposure, most=3.0,
        extracted=Interval(value=written, low=0.0, high=1.0, n=2), **more,
    )  # fmt: skip


LEARNED = Interval(value=3.0, low=2.5, high=3.0, n=2)  # of at most 3 bits: the first among eight
UNSEEN = Interval(value=1.0, low=0.2, high=1.9, n=2)
KNOWN = ExposureRecord(
    secrets=(secret("a", 1500, "a"), secret("b", 0, "a"), secret("c", 1500, "x")),
    summaries=(summary(0, UNSEEN, 0.0), summary(1500, LEARNED, 0.5, found=LEARNED, emission=UNSEEN)),
)


def asked(monkeypatch: pytest.MonkeyPatch, **settings: int) -> tuple[list[Finding], Work, list[dict[str, int]]]:
    seen: list[dict[str, int]] = []

    def measure(_world: object, _journal: object, **own: int) -> ExposureRecord:
        seen.append(own)
        return KNOWN

    monkeypatch.setattr(asking.memorisation, "measure_exposure", measure)
    work = Work()
    evidence = Evidence(None, None)  # type: ignore[arg-type]
    return list(WhatWasMemorised(Exposure(**settings)).ask(evidence, work)), work, seen


def test_what_was_learned_is_above_chance_and_what_was_left_out_is_its_control(monkeypatch: pytest.MonkeyPatch) -> None:
    (control, often), _, seen = asked(monkeypatch, candidates=7, search=5, emission=3)
    assert seen == [{"candidates": 7, "search": 5, "emission": 3}]
    assert (often.label, often.role, often.state) == ("canary x 1500", "attack", "recovered")
    assert (control.label, control.role, control.state) == ("canary x 0", "chance", "withstood")
    assert (often.value, often.limit) == (LEARNED, 3.0)
    assert often.about == {"secrets": "canary", "repetitions": 1500}
    assert often.more["secrets_written"].value == 0.5
    assert (often.more["likeliest"], often.more["emission"]) == (LEARNED, UNSEEN)
    assert control.more.keys() == {"secrets_written"}, "nobody searched, and nobody estimated"


def test_secrets_are_a_table_that_both_refer_to(monkeypatch: pytest.MonkeyPatch) -> None:
    found, work, _ = asked(monkeypatch)
    assert {own.items for own in found} == set(work.items) == {"exposure/secrets"}
    table = work.items["exposure/secrets"]
    assert (table["text"], table["guess"], table["extracted"]) == (
        ["a", "b", "c"],
        ["a", "a", "x"],
        [True, False, False],
    )
    assert {len(column) for column in table.values()} == {3}


def test_chance_is_the_mean_exposure_of_a_rank_that_is_uniform(monkeypatch: pytest.MonkeyPatch) -> None:
    (own, _), *_ = asked(monkeypatch)
    ranks = np.arange(1, 9)  # exposure is at most 3 bits: among eight sentences
    assert own.chance == pytest.approx(float(np.log2(len(ranks) / ranks).mean()))
