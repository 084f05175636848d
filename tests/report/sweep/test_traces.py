"""What traces gave away on the page of a sweep: of one seed its own figure, of several their mean."""

from pathlib import Path

import pytest

from fedsim.record import RunRecord
from fedsim.report.sweep import build
from fedsim.report.sweep.gathered import gather
from fedsim.report.sweep.traces import traces
from tests.report import records
from tests.report.sweeps import save
from tests.report.tables.test_generations import CONTROL, PADDED, finding
from tests.report.tables.test_generations import record as spoken


def swept(folder: Path, *runs: tuple[str, int, RunRecord]) -> Path:
    return save(folder, records, list(runs))


def test_a_row_is_a_finding_of_a_setting_by_question(tmp_path: Path) -> None:
    bits = finding(0.1, 0.3, question="bits", label="figures", metric="trace_bits", p=0.01, chance=0.05)
    folder = swept(tmp_path / "s", ("none", 1, spoken(finding(0.5, 0.6), PADDED, CONTROL, bits)))
    prompt, other = traces(gather(folder))
    assert (prompt.question, other.question) == ("Which prompt?", "How many bits about the prompt?")
    assert [(row.decoder, row.told.label, row.told.role, row.seeds) for row in prompt.rows] == [
        ("aded", "forest", "", 1), ("aded", "padded", "", 1), ("aded", "text", "must succeed", 1)
    ]  # fmt: skip
    assert prompt.rows[0].told.found.value == "60%"
    assert prompt.rows[0].told.found.interval == "50 to 70"
    assert prompt.rows[1].told.cost == "1.50 x steps, 3.00 x tokens"
    assert (other.rows[0].told.p, other.rows[0].told.chance) == ("0.01", "0.05 bits")


def test_of_several_seeds_the_figure_is_their_mean_with_the_interval_of_student(tmp_path: Path) -> None:
    seeds = {1: 0.5, 2: 0.6, 3: 0.7}
    runs = [("none", seed, spoken(finding(0.4, value, p=0.01))) for seed, value in seeds.items()]
    failed = finding(0.1, 0.2, found=None, failure="no way")
    folder = swept(tmp_path / "s", *runs, ("none", 4, spoken(failed)), ("other 1", 1, spoken(failed)))
    (table,) = traces(gather(folder))
    mean, lost = table.rows
    assert (mean.told.found.value, mean.seeds, mean.told.n, mean.told.p) == ("60%", 4, "3", "\N{EN DASH}")
    half = 4.302653 * 0.1 / 3**0.5  # Student's quantile of two degrees of freedom
    low, high = (float(own) for own in mean.told.found.interval.split(" to "))
    assert (low, high) == pytest.approx((100 * (0.6 - half), 100 * (0.6 + half)), abs=0.5)  # shown without decimals
    assert (lost.told.found.value, lost.told.reason, lost.seeds) == ("\N{EN DASH}", "no way", 1)


def test_the_page_has_the_section_where_traces_were_attacked_alone(tmp_path: Path) -> None:
    page = build(swept(tmp_path / "s", ("none", 1, spoken(finding(0.5, 0.6))))).read_text(encoding="utf-8")
    assert "What generation gives away" in page
    assert "Which prompt?" in page
    assert "60%" in page
    other = build(swept(tmp_path / "t", ("none", 1, records.typical()))).read_text(encoding="utf-8")
    assert "What generation gives away" not in other
