"""What questions found: a table a question, the telling finding in a sentence, and controls that did not do theirs."""

from types import ModuleType
from typing import Any

from fedsim.record import Finding, Interval, RunRecord
from fedsim.report.brief import write_brief
from fedsim.report.tables.figures import NOTHING
from fedsim.report.tables.findings import Answers, alarms, answers, doubts, finding_sentences
from tests.report import records
from tests.report.made_findings import (
    CONTROL,
    LOST,
    PADDED,
    PERMUTED,
    STRONG,
    UNREAD,
    of_attributes,
    of_traces,
)


def told(*findings: Finding, **items: Any) -> RunRecord:
    return records.run([records.arm("quiet", []), records.arm("told", [], findings=findings, items=items)])


def answered(*findings: Finding, **items: Any) -> Answers:
    (own,) = answers(told(*findings, **items))
    return own


def test_a_finding_is_a_row_with_what_stands_beside_it_and_a_failure_says_why() -> None:
    own = answered(of_attributes("a", "parity", 0.9, 0.8), PERMUTED, UNREAD)
    assert own.question.title == "What are the data like?"
    first, control, failed = own.rows
    assert (first.group, first.about, first.n, first.chance) == (
        "told", "attribute parity, values 2, left out 3", "60", "50%"
    )  # fmt: skip
    assert (first.role, first.figure, first.value.value, first.value.interval) == ("", "read right", "90%", "80 to 100")
    assert own.groups == [("told", list(own.rows))]
    assert (control.role, control.value.value) == ("chance", "50%")
    assert (failed.value.value, failed.chance, failed.n, failed.reason) == (NOTHING, NOTHING, NOTHING, "no tensor")
    assert not own.has_p


def test_what_all_have_beside_their_figure_has_a_column_and_what_some_have_is_words() -> None:
    own = answered(STRONG, PADDED)
    assert own.headings == ()
    assert [row.besides for row in own.rows] == ["", "steps (times) 1.50, tokens (times) 3.00"]
    alone = answered(PADDED, LOST)
    assert alone.headings == ("steps (times)", "tokens (times)")
    padded, lost = alone.rows
    assert [cell.value for cell in padded.more] == ["1.50", "3.00"]
    assert [cell.value for cell in lost.more] == [NOTHING, NOTHING]
    assert padded.besides == ""


def test_a_permutation_test_has_a_column_where_one_was_made() -> None:
    bits = of_traces(0.3, 0.4, metric="trace_bits", label="figures (bits)", chance=0.1, p=0.01)
    own = answered(STRONG, bits)
    assert own.has_p
    assert [(row.p, row.chance) for row in own.rows] == [(NOTHING, "2%"), ("0.01", "0.10 bits")]


def test_membership_has_its_rates_and_who_was_judged(sweeps: ModuleType) -> None:
    parts = sweeps.membership("lira", 100)
    (known,) = parts["findings"]
    client = known.model_copy(
        update={"about": {"target": "updates", "members": 9, "others": 9, "client": 3, "rounds": "1, 4"}}
    )
    failed = Finding(question="membership", label="lost", metric="auc", chance=0.5, failure="no shadows")
    (own,) = answers(records.run([records.arm("told", [], findings=(known, client, failed), items=parts["items"])]))
    first, second, lost = own.rows
    assert own.headings == ("AUC", "advantage")
    assert (first.figure, first.value.value, first.chance) == ("TPR at FPR 1%", "10.0%", "1.0%")
    assert [cell.value for cell in first.more] == ["0.60", "0.20"]
    assert first.about == "target model, members 1000, others 1000"
    assert second.about == "target updates, members 9, others 9, client 3, rounds 1, 4"
    assert (lost.value.value, lost.reason) == (NOTHING, "no shadows")
    assert own.has_curves
    assert own.examples == (), "curves are pictures, not text"


def test_tables_that_hold_text_are_shown_and_a_cell_is_short() -> None:
    often = Finding(
        question="exposure", label="canary x 1500", about={"secrets": "canary", "repetitions": 1500}, metric="exposure",
        value=Interval(value=3.0, low=2.0, high=3.0, n=2), chance=1.44, limit=3.0,
        more={"secrets_written": Interval(value=0.5, low=0.0, high=1.0, n=2)}, items="exposure/secrets",
    )  # fmt: skip
    never = often.model_copy(update={"label": "canary x 0", "role": "chance"})
    secrets = {"text": ["a", "b"], "guess": ["a", "x"], "exposure": [3.0, 0.123], "likeliest": [None, "b"]}
    own = answered(often, never, **{"exposure/secrets": secrets})
    first, control = own.rows
    assert (first.value.value, first.chance) == ("3.00", "1.44 bits")
    assert [(row.more[0].value, row.role) for row in (first, control)] == [("50%", ""), ("50%", "chance")]
    (table,) = own.examples  # once, though two findings refer to it
    assert (table.arm, table.columns) == ("told", ("text", "guess", "exposure", "likeliest"))
    assert table.rows == (("a", "a", "3.00", NOTHING), ("b", "x", "0.12", "b"))


def test_what_explains_itself_is_a_note_and_context_gives_no_columns() -> None:
    context = of_traces(
        1.4, 1.5, label="aded", role="context", metric="tokens_a_step", chance=None, note="aded, the global model."
    )
    own = answered(context, PADDED)
    assert own.notes == (("told", "aded, the global model."),)
    assert own.headings == ("steps (times)", "tokens (times)")
    assert own.doubts == ()


def test_controls_that_do_not_do_what_they_must_are_named() -> None:
    assert doubts([STRONG, CONTROL]) == ""
    weak = of_traces(0.01, 0.1, role="must succeed", label="text")
    strange = of_traces(0.5, 0.6, role="chance", label="shuffled")
    sentence = "Not above chance, though it must be: text. Above chance, though there is nothing to find: shuffled."
    assert doubts([weak, strange]) == sentence
    assert doubts([LOST.model_copy(update={"role": "must succeed"})]).startswith("Not above chance")
    (own,) = answers(told(weak, strange))
    assert own.doubts == (f"told: {sentence}",)
    (alone,) = answers(records.run([records.arm("told", [], findings=(weak, strange))]))
    assert alone.doubts == (sentence,)


def test_the_strongest_finding_is_the_arms_sentence() -> None:
    record = told(PADDED, STRONG, of_traces(0.3, 0.4, label="weaker (prompt)"), CONTROL)
    (own,) = finding_sentences(record)
    assert (own.arm, own.recovered) == ("told", True)
    assert own.before == "What generation gives away "
    assert own.finding == "forest (prompt): prompt told 60%"
    assert own.after == " (50 to 70%; chance 2%; n = 50)."
    found, _ = write_brief(record.model_copy(update={"arms": record.arms[1:]}))
    assert found.startswith("What generation gives away forest (prompt): prompt told 60%")


def test_nothing_above_chance_is_no_guarantee() -> None:
    (own,) = finding_sentences(told(PADDED))
    assert not own.recovered
    assert own.finding == "No attack is above chance"
    assert "padded (prompt)" in own.after
    assert own.after.endswith("which is no guarantee.")
    bits = of_traces(0.3, 0.4, metric="trace_bits", chance=0.1, p=0.4)
    assert not finding_sentences(told(bits))[0].recovered
    assert finding_sentences(told(of_traces(0.3, 0.4, role="chance"))) == []


def test_where_every_attack_failed_the_sentence_says_so() -> None:
    (own,) = finding_sentences(told(LOST, UNREAD.model_copy(update={"question": "generation"})))
    assert (own.finding, own.after, own.recovered) == ("No attack gave a result", " (lost (prompt), c).", False)


def test_a_question_is_a_sentence_and_of_one_metric_the_larger_share_is_told() -> None:
    asked = (of_attributes("a", "parity", 0.7, 0.6), of_attributes("b", "parity", 0.9, 0.8), UNREAD, STRONG)
    attributes, generation = finding_sentences(told(*asked))
    assert attributes.before == "What are the data like? "
    assert attributes.finding == "b: read right 90%"
    assert attributes.after == " (80 to 100%; chance 50%; n = 60)."
    assert generation.recovered


def test_an_alarm_stands_with_its_arm() -> None:
    loud = of_traces(0.1, 0.2, alarm="An audit contradicts a guarantee: look.")
    assert alarms(told(STRONG, loud)) == ["told: An audit contradicts a guarantee: look."]


def test_what_is_above_chance_is_told_before_what_is_larger() -> None:
    unsure = of_traces(0.01, 0.9, label="unsure (prompt)")
    (own,) = finding_sentences(told(unsure, STRONG))
    assert own.finding == "forest (prompt): prompt told 60%"


def test_of_a_metric_that_is_better_lower_the_smallest_is_told() -> None:
    near, far = (
        of_traces(0.0, distance, label=label, metric="sample_distance", chance=None)
        for label, distance in (("near", 0.1), ("far", 0.8))
    )
    (own,) = finding_sentences(told(far, near))
    assert "the best is near" in own.after
