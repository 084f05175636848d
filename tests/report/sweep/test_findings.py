"""What questions found on the page of a sweep: of one seed its own figure, of several their mean."""

from pathlib import Path

import pytest

from fedsim.core import registry
from fedsim.record import Finding, Interval, RunRecord
from fedsim.report.document import TableCell, TableRow
from fedsim.report.sweep import build
from fedsim.report.sweep.findings import findings_tables, mean_finding, worst_figure
from fedsim.report.sweep.gathered import gather
from fedsim.report.tables.figures import NOTHING
from tests.report import records
from tests.report.made_findings import CONTROL, LOST, PADDED, PERMUTED, STRONG, UNREAD, of_attributes, of_traces
from tests.report.sweeps import save

QUANTILE = 4.302653  # Student's, of two degrees of freedom, at 97.5%


def told(*findings: Finding) -> RunRecord:
    return records.run([records.arm("all", [], findings=findings)])


def read(row: TableRow) -> dict[str, TableCell]:
    """Return the cells of a row by heading."""
    headings = ("setting", "attack", "of what", "figure", "found", "chance", "p", "n", "seeds", "beside it")
    return dict(zip(headings, row.cells, strict=True))


def test_a_row_is_a_finding_of_a_setting_and_a_question_is_a_table(tmp_path: Path) -> None:
    bits = of_traces(0.1, 0.3, label="figures (bits)", metric="trace_bits", p_value=0.01, chance_level=0.05)
    own = told(STRONG, PADDED, CONTROL, bits, of_attributes("a", "parity", 0.9, 0.8))
    asked = findings_tables(gather(save(tmp_path / "s", records, [("none", 1, own)])))
    tables = {question.title: table for question, table in asked}
    assert sorted(tables) == ["What are the data like?", "What generation gives away"]
    rows = [read(row) for row in tables["What generation gives away"].rows]
    assert [(row["attack"].text, row["attack"].tags, row["seeds"].text) for row in rows] == [
        ("forest (prompt)", (), "1"), ("padded (prompt)", (), "1"), ("text (prompt)", ("positive-control",), "1"),
        ("figures (bits)", (), "1"),
    ]  # fmt: skip
    strong, padded, _, figures = rows
    assert (strong["found"].text, strong["found"].interval) == ("60%", "50 to 70")
    assert padded["beside it"].text == "steps (times) 1.50, tokens (times) 3.00"
    assert (figures["p"].text, figures["chance"].text) == ("0.01", "0.05 bits")


def test_of_several_seeds_the_figure_is_their_mean_with_the_interval_of_student(tmp_path: Path) -> None:
    shares = {1: 0.6, 2: 0.7, 3: 0.8}
    runs = [
        ("none", seed, told(of_attributes("a", "parity", share, 0.1, p_value=0.01), PERMUTED, UNREAD))
        for seed, share in shares.items()
    ]
    other = ("other 1", 1, told(of_attributes("a", "parity", 0.9, 0.8)))
    folder = save(tmp_path / "s", records, [*runs, ("none", 4, told(UNREAD)), other])
    ((_, table),) = findings_tables(gather(folder))
    mean, permuted, failed, single = map(read, table.rows)
    columns = ("seeds", "n", "found", "chance", "p")
    assert [mean[column].text for column in columns] == ["3", "3", "70%", "50%", NOTHING]
    half = QUANTILE * 0.1 / 3**0.5
    low, high = (float(bound) for bound in mean["found"].interval.split(" to "))
    assert (low, high) == pytest.approx((100 * (0.7 - half), 100 * (0.7 + half)), abs=0.5)  # shown without decimals
    assert permuted["found"].text == "50%"
    assert (failed["seeds"].text, failed["attack"].notes, failed["found"].text) == (
        "4",
        ("failed: no tensor",),
        NOTHING,
    )
    assert (single["seeds"].text, single["setting"].text, single["found"].interval) == ("1", "other 1", "80 to 100")


def test_an_interval_over_few_seeds_that_differ_ends_where_shares_end(tmp_path: Path) -> None:
    runs = [("none", seed, told(of_attributes("a", "parity", share, 0.1))) for seed, share in ((1, 0.2), (2, 0.9))]
    ((_, table),) = findings_tables(gather(save(tmp_path / "s", records, runs)))
    assert read(table.rows[0])["found"].interval == "0 to 100"


def test_a_mean_is_over_those_that_have_a_figure() -> None:
    half = {"step_ratio": Interval(value=2.0, low=None, high=None, n=50)}
    values = [PADDED, of_traces(0.01, 0.04, label="padded (prompt)", chance_level=0.04, extra_metrics=half), LOST]
    declared = registry.every_metric()
    own = mean_finding(values, declared, 0.95)
    assert own.value is not None
    assert own.value.value == pytest.approx(0.03)
    assert own.chance_level == pytest.approx(0.03)
    assert {name: figure.value for name, figure in own.extra_metrics.items()} == {"step_ratio": 1.75}, "all have it"
    assert mean_finding([LOST, STRONG], declared, 0.95) == STRONG
    assert mean_finding([LOST, LOST], declared, 0.95) == LOST


def test_the_worst_figure_is_the_largest_that_an_attack_reached(tmp_path: Path) -> None:
    runs = [
        ("none", 1, told(of_attributes("a", "parity", 0.6, 0.5), of_attributes("b", "parity", 0.7, 0.6))),
        (
            "none",
            2,
            told(
                of_attributes("a", "parity", 0.9, 0.5), of_attributes("c", "parity", 1.0, 1.0, role="negative-control")
            ),
        ),
    ]
    (setting,) = gather(save(tmp_path / "s", records, runs)).settings
    worst = worst_figure(setting, "attribute_balanced_accuracy", 0.95)
    assert worst is not None
    assert worst.value == pytest.approx(0.75), "the mean of a, above the only figure of b; c is a control"
    assert worst_figure(setting, "auc", 0.95) is None


def test_their_time_is_no_training_and_the_page_has_them_where_somebody_asked(tmp_path: Path) -> None:
    slow = of_attributes("a", "parity", 0.9, 0.8, seconds=5.0)
    folder = save(tmp_path / "s", records, [("none", 1, told(slow, STRONG))])
    (setting,) = gather(folder).settings
    assert setting.cells[0].seconds == told(slow).arms[0].seconds - 5.0
    page = build(folder).read_text(encoding="utf-8")
    titles = ("What are the data like?", "What generation gives away")
    for words in (*titles, "attribute parity", "forest (prompt)", "60%"):
        assert words in page
    other = build(save(tmp_path / "t", records, [("none", 1, records.typical())])).read_text(encoding="utf-8")
    assert not any(title in other for title in titles)
