"""What questions found: a table a question, the telling finding in a sentence, and controls that did not do theirs."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

from fedsim.record import Finding, Interval, RunRecord
from fedsim.report.brief import summarise_run
from fedsim.report.document import Table, TableRow
from fedsim.report.tables.figures import NOTHING
from fedsim.report.tables.findings import alarms, doubts, examples, finding_sentences, findings_table, questions
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


def table_of(*findings: Finding, **items: Any) -> Table:
    record = told(*findings, **items)
    (question,) = questions(record)
    return findings_table(record, question)


def cells(table: Table, row: TableRow) -> dict[str, str]:
    """What stands below each heading."""
    return {heading.text: cell.text for heading, cell in zip(table.headings, row.cells, strict=True)}


def test_a_finding_is_a_row_with_what_stands_beside_it_and_a_failure_says_why() -> None:
    table = table_of(of_attributes("a", "parity", 0.9, 0.8), PERMUTED, UNREAD)
    assert table.title == "What are the data like?"
    (group,) = table.groups
    assert group.title == "told"
    first, control, failed = group.rows
    assert cells(table, first) == {
        "attack": "a", "figure": "read right", "found": "90%", "chance": "50%", "n": "60",
        "of what": "attribute parity, values 2, left out 3",
    }  # fmt: skip
    assert (first.cells[0].tags, first.cells[2].interval) == ((), "80 to 100")
    assert (control.cells[0].tags, cells(table, control)["found"]) == (("negative-control",), "50%")
    assert (failed.cells[0].text, failed.reason) == ("c", "failed: no tensor")


def test_what_all_have_beside_their_figure_has_a_column_and_what_some_have_is_words() -> None:
    both = table_of(STRONG, PADDED)
    assert "steps (times)" not in [heading.text for heading in both.headings]
    words = [cells(both, row)["beside it"] for row in both.groups[0].rows]
    assert words == ["", "steps (times) 1.50, tokens (times) 3.00"]
    alone = table_of(PADDED, LOST)
    padded, lost = alone.groups[0].rows
    assert cells(alone, padded)["steps (times)"] == "1.50"
    assert cells(alone, padded)["tokens (times)"] == "3.00"
    assert lost.reason
    assert "beside it" not in cells(alone, padded)


def test_a_permutation_test_has_a_column_where_one_was_made() -> None:
    bits = of_traces(0.3, 0.4, metric="trace_bits", label="figures (bits)", chance_level=0.1, p_value=0.01)
    table = table_of(STRONG, bits)
    shown = [cells(table, row) for row in table.groups[0].rows]
    assert [(row["p"], row["chance"]) for row in shown] == [(NOTHING, "2%"), ("0.01", "0.10 bits")]


def test_membership_has_its_rates_and_who_was_judged(sweeps: ModuleType) -> None:
    parts = sweeps.membership("lira", 100)
    (known,) = parts["findings"]
    client = known.model_copy(
        update={"scope": {"target": "updates", "members": 9, "non_members": 9, "client": 3, "rounds": "1, 4"}}
    )
    failed = Finding(question="membership", label="lost", metric="auc", chance_level=0.5, failure="no shadows")
    record = records.run([records.arm("told", [], findings=(known, client, failed), items=parts["items"])])
    (question,) = questions(record)
    table = findings_table(record, question)
    first, second, lost = table.groups[0].rows
    of_all, of_client = cells(table, first), cells(table, second)
    assert (of_all["figure"], of_all["found"], of_all["chance"]) == ("TPR at FPR 1%", "10.0%", "1.0%")
    assert (of_all["AUC"], of_all["advantage"]) == ("0.60", "0.20")
    assert of_all["of what"] == "target model, members 1000, non-members 1000"
    assert of_client["of what"] == "target updates, members 9, non-members 9, client 3, rounds 1, 4"
    assert lost.reason == "failed: no shadows"
    assert list(examples(record, question)) == [], "curves are pictures, not text"


def test_tables_that_hold_text_are_shown_and_a_cell_is_short() -> None:
    often = Finding(
        question="exposure", label="canary x 1500", scope={"secrets": "canary", "repetitions": 1500}, metric="exposure",
        value=Interval(value=3.0, low=2.0, high=3.0, n=2), chance_level=1.44, max_value=3.0,
        extra_metrics={"secret_extraction_rate": Interval(value=0.5, low=0.0, high=1.0, n=2)}, items="exposure/secrets",
    )  # fmt: skip
    never = often.model_copy(update={"label": "canary x 0", "role": "negative-control"})
    secrets = {"text": ["a", "b"], "guess": ["a", "x"], "exposure": [3.0, 0.123], "likeliest": [None, "b"]}
    record = told(often, never, **{"exposure/secrets": secrets})
    (question,) = questions(record)
    table = findings_table(record, question)
    first, control = table.groups[0].rows
    assert (cells(table, first)["found"], cells(table, first)["chance"]) == ("3.00", "1.44 bits")
    assert [cells(table, row)["written"] for row in (first, control)] == ["50%"] * 2
    assert [row.cells[0].tags for row in (first, control)] == [(), ("negative-control",)]
    ((arm, behind),) = examples(record, question)  # once, though two findings refer to it
    assert (arm, [heading.text for heading in behind.headings]) == ("told", ["text", "guess", "exposure", "likeliest"])
    rows = [[cell.text for cell in row.cells] for row in behind.groups[0].rows]
    assert rows == [["a", "a", "3.00", NOTHING], ["b", "x", "0.12", "b"]]


def test_what_explains_itself_is_a_note_and_context_gives_no_columns(report: Callable[..., Any]) -> None:
    context = of_traces(
        1.4,
        1.5,
        label="aded",
        role="context",
        metric="tokens_per_step",
        chance_level=None,
        note="aded, the global model.",
    )
    headings = [heading.text for heading in table_of(context, PADDED).headings]
    assert headings == ["attack", "figure", "found", "chance", "steps (times)", "tokens (times)", "n", "of what"]
    page = report(told(context, PADDED))
    assert "told : aded, the global model." in page.text
    assert "A control failed" not in page.text


def test_controls_that_do_not_do_what_they_must_are_named(report: Callable[..., Any]) -> None:
    assert doubts([STRONG, CONTROL]) == ""
    weak = of_traces(0.01, 0.1, role="positive-control", label="text")
    strange = of_traces(0.5, 0.6, role="negative-control", label="shuffled")
    sentence = (
        "Not above chance, though it must be: text. Above chance although a negative control has "
        "nothing to find: shuffled."
    )
    assert doubts([weak, strange]) == sentence
    assert doubts([LOST.model_copy(update={"role": "positive-control"})]).startswith("Not above chance")
    after = "Do not rely on its results."
    title = "A control failed"
    assert f"{title} told: {sentence} {after}" in report(told(weak, strange)).text
    alone = records.run([records.arm("told", [], findings=(weak, strange))])
    assert f"{title} {sentence} {after}" in report(alone).text


def test_the_strongest_finding_is_the_arms_sentence() -> None:
    record = told(PADDED, STRONG, of_traces(0.3, 0.4, label="weaker (prompt)"), CONTROL)
    (own,) = finding_sentences(record)
    assert (own.subject, own.level) == ("told", "recovered")
    assert own.before == "What generation gives away "
    assert own.strong == "forest (prompt): prompt told 60%"
    assert own.after == " (50 to 70%; chance 2%; n = 50)."
    found, _ = summarise_run(record.model_copy(update={"arms": record.arms[1:]}))
    assert found.startswith("What generation gives away forest (prompt): prompt told 60%")


def test_a_question_says_in_words_of_its_own_that_nothing_was_noticed() -> None:
    quiet = Finding(
        question="audit",
        label="dp-sgd",
        metric="epsilon_lower_bound",
        chance_level=5.0,
        value=Interval(value=1.0, low=1.0, high=None, n=9),
    )
    (own,) = finding_sentences(told(quiet))
    assert (own.before, own.strong, own.level) == ("Is the guarantee kept? ", "No claim is contradicted", "")


def test_nothing_above_chance_is_no_guarantee() -> None:
    (own,) = finding_sentences(told(PADDED))
    assert own.level == ""
    assert own.strong == "No attack is above chance"
    assert "padded (prompt)" in own.after
    assert own.after.endswith("which is no guarantee.")
    bits = of_traces(0.3, 0.4, metric="trace_bits", chance_level=0.1, p_value=0.4)
    assert finding_sentences(told(bits))[0].level == ""
    assert finding_sentences(told(of_traces(0.3, 0.4, role="negative-control"))) == []


def test_where_every_attack_failed_the_sentence_says_so() -> None:
    (own,) = finding_sentences(told(LOST, UNREAD.model_copy(update={"question": "generation"})))
    assert (own.strong, own.after, own.level) == ("No attack gave a result", " (lost (prompt), c).", "")


def test_a_question_is_a_sentence_and_of_one_metric_the_larger_share_is_told() -> None:
    asked = (of_attributes("a", "parity", 0.7, 0.6), of_attributes("b", "parity", 0.9, 0.8), UNREAD, STRONG)
    attributes, generation = finding_sentences(told(*asked))
    assert attributes.before == "What are the data like? "
    assert attributes.strong == "b: read right 90%"
    assert attributes.after == " (80 to 100%; chance 50%; n = 60)."
    assert generation.level == "recovered"


def test_an_alarm_stands_with_its_arm() -> None:
    loud = of_traces(0.1, 0.2, alarm="An audit contradicts a guarantee: look.")
    assert alarms(told(STRONG, loud)) == ["told: An audit contradicts a guarantee: look."]


def test_what_is_above_chance_is_told_before_what_is_larger() -> None:
    unsure = of_traces(0.01, 0.9, label="unsure (prompt)")
    (own,) = finding_sentences(told(unsure, STRONG))
    assert own.strong == "forest (prompt): prompt told 60%"


def test_of_a_metric_that_is_better_lower_the_smallest_is_told() -> None:
    near, far = (
        of_traces(0.0, distance, label=label, metric="sample_distance", chance_level=None)
        for label, distance in (("near", 0.1), ("far", 0.8))
    )
    (own,) = finding_sentences(told(far, near))
    assert "the best is near" in own.after


def test_an_invalid_finding_is_tagged_raises_the_alarm_and_is_no_result() -> None:
    loud = of_attributes("a", "parity", 0.9, 0.8).model_copy(update={"invalid": "its control read too much"})
    record = told(loud, of_attributes("b", "parity", 0.5, 0.4))
    assert alarms(record) == ["told: a is invalid: its control read too much."]
    (group,) = table_of(loud).groups
    assert group.rows[0].cells[0].tags == ("invalid",)
    (quiet,) = finding_sentences(record)
    assert (quiet.strong, quiet.level) == ("No attack is above chance", "")
    (alone,) = finding_sentences(told(loud))
    assert (alone.strong, alone.level) == ("No finding is valid", "caution")
    assert alone.after == " (a: its control read too much)."
    must = loud.model_copy(update={"role": "positive-control"})
    assert table_of(must).groups[0].rows[0].cells[0].tags == ("positive-control", "invalid")
