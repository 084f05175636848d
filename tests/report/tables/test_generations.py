"""What generations gave away, for people and for programs: the strongest finding, doubts about controls, CSV rows."""

from typing import Any

import pytest

from fedsim.core import registry
from fedsim.record import GenerationRecord, Interval, RunRecord, TraceFinding
from fedsim.report.brief import write_brief
from fedsim.report.tables import CSV_COLUMNS, generations, trace_rows, trace_sentences
from tests.report import records


def finding(low: float, value: float, **more: Any) -> TraceFinding:
    own: dict[str, Any] = {
        "question": "prompt",
        "label": "forest",
        "name": "trace-forest",
        "settings": {},
        "view": "counts",
        "metric": "prompt_accuracy",
        "found": Interval(value=value, low=low, high=min(1.0, 2 * value - low), n=50),
        "chance": 0.02,
    }
    return TraceFinding(**(own | more))


def record(*findings: TraceFinding, **more: Any) -> RunRecord:
    own = GenerationRecord(
        decoder="aded",
        settings={"depth": 4, "table": None},
        model="global",
        texts=450,
        tokens_a_step=Interval(value=1.5, low=1.4, high=1.6, n=450),
        endings={"length": 449, "failed": 1},
        reasons=("no way on.",),
        findings=findings,
    )
    whole = records.typical()
    (arm, *_) = whole.arms
    arm = arm.model_copy(update={"generation": own.model_copy(update=more), "attacks": (), "membership": ()})
    metrics = registry.declared([*whole.figures, "ssim", *(one.metric for one in findings)])
    return whole.model_copy(update={"arms": (arm,), "metrics": metrics})


STRONG, PADDED = (
    finding(0.5, 0.6),
    finding(0.01, 0.02, label="padded", mitigation="trace-padding", longer=1.5, larger=3.0),
)
CONTROL = finding(0.9, 0.96, label="text", role="must succeed", view="outputs")


def test_the_strongest_finding_is_the_arms_sentence() -> None:
    (told,) = trace_sentences(record(PADDED, STRONG, CONTROL))
    assert told.recovered
    assert told.before == "Traces of decoder aded, view counts: "
    assert told.finding == "prompt told 60%"
    assert told.after == " with trace-forest (n = 50, interval 50 to 70; chance 2%)."
    found, _ = write_brief(record(STRONG))
    assert found == "Traces of decoder aded, view counts: prompt told 60%."


def test_nothing_above_chance_is_no_guarantee() -> None:
    (told,) = trace_sentences(record(PADDED))
    assert not told.recovered
    assert told.finding == "no attack is above chance"
    assert "behind trace-padding" in told.before
    bits = finding(0.3, 0.4, question="bits", metric="trace_bits", chance=0.1, p=0.4)
    assert not trace_sentences(record(bits))[0].recovered
    assert trace_sentences(record(finding(0.3, 0.4, role="chance"))) == []


def test_the_table_groups_by_question_and_tells_costs() -> None:
    bits = finding(0.3, 0.4, question="bits", metric="trace_bits", chance=0.1, p=0.01, found=None, failure="no trees")
    (spoken,) = generations(record(bits, PADDED, STRONG))
    assert [own.question for own in spoken.answers] == ["Which prompt?", "How many bits about the prompt?"]
    padded, strong = spoken.answers[0].rows
    assert padded.cost == "1.50 x steps, 3.00 x tokens"
    assert (strong.found.value, strong.found.interval, strong.chance, strong.n) == ("60%", "50 to 70", "2%", "50")
    assert spoken.answers[1].rows[0].reason == "no trees"
    assert spoken.told == (
        "Decoder aded (depth = 4), the global model: 450 texts, 1.50 tokens a step (1.40 to 1.60); ended 449 by "
        "length, 1 by failed. no way on."
    )


def test_controls_that_do_not_do_what_they_must_are_named() -> None:
    assert generations(record(STRONG, CONTROL))[0].doubts == ""
    weak, strange = (
        finding(0.01, 0.1, role="must succeed", label="text"),
        finding(0.5, 0.6, role="chance", label="shuffled"),
    )
    assert generations(record(weak, strange))[0].doubts == (
        "Not above chance, though it must be: text. Above chance, though there is nothing to find: shuffled"
    )


def test_a_decoder_that_wrote_nothing_says_why() -> None:
    (spoken,) = generations(record(failure="the draft is gone.", findings=()))
    assert spoken.told == "Decoder aded (depth = 4) wrote nothing: the draft is gone."
    assert spoken.answers == ()


@pytest.mark.parametrize("own", [STRONG, PADDED, finding(0.1, 0.2, found=None, failure="broken")])
def test_a_csv_row_has_every_column(own: TraceFinding) -> None:
    (row,) = trace_rows(record(own))
    values = dict(zip(CSV_COLUMNS, row, strict=True))
    assert (values["decoder"], values["label"], values["chance"]) == ("aded", own.label, 0.02)
    assert values["value"] == (own.found.value if own.found else None)
    assert values["failure"] == (own.failure or "")
