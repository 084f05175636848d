"""Results are small files; what moved is told by intervals, and pages show the tables of the files."""

import re
from pathlib import Path

import pytest

from benchmarks import _figures, _results
from benchmarks._experiments import experiments
from benchmarks._results import as_json, changed_rows, read, write
from benchmarks._rows import Row
from benchmarks._sources import ROOT, digest_of_file
from fedsim.core.errors import FedsimError
from tests.benchmarks.toy_results import result

EXACT = Row("exact", "LeNet", 0.5, "share", 0.25, 0.75, 4, ">= 0.6")
PSNR = Row("PSNR", "LeNet", 71.234567, "dB", n=4, note="one | two")


def test_a_file_gives_back_what_was_written_with_four_digits(tmp_path: Path) -> None:
    file = write(result(EXACT, PSNR), tmp_path)
    assert read("toy", tmp_path) == result(EXACT, PSNR._replace(value=71.23))
    assert file.read_text() == as_json(read("toy", tmp_path))
    (tmp_path / "broken.json").write_text('{"cells": {}, "more": 1}')
    with pytest.raises(FedsimError, match="broken.json holds no results"):
        read("broken", tmp_path)
    with pytest.raises(FedsimError, match="python -m benchmarks none"):
        read("none", tmp_path)


@pytest.mark.parametrize(
    ("now", "line"),
    [
        (EXACT._replace(value=0.7, low=0.74, high=0.9), None),
        (EXACT._replace(value=0.9, low=0.8, high=1.0), "0.5 [0.25, 0.75] share before, 0.9 [0.8, 1] share now"),
        (EXACT._replace(value=0.7, low=None, high=None), None),
        (EXACT._replace(value=0.8, low=None, high=None), "0.5 [0.25, 0.75] share before, 0.8 share now"),
        (EXACT._replace(name="exactly"), "one, LeNet, exact: is gone"),
    ],
)
def test_what_moved_is_told_by_intervals(now: Row, line: str | None) -> None:
    lines = list(changed_rows(result(EXACT), result(now)))
    assert (line is None) == (not lines)
    assert line is None or line in lines[0]


def test_seconds_and_figures_without_intervals_are_not_compared() -> None:
    before, after = (Row("time", "here", value, "s", value, value, 3) for value in (1.0, 9.0))
    assert not list(changed_rows(result(before), result(after)))
    assert not list(changed_rows(result(PSNR), result(PSNR._replace(value=3.0))))


def test_a_figure_without_spread_is_where_it_was_up_to_the_digits_that_are_shown() -> None:
    alike = Row("shown", "curve", 0.25212345, "", 0.25212345, 0.25212345, 10)
    other = alike._replace(value=0.26, low=0.26, high=0.26)
    kept = alike._replace(value=0.2521, low=0.2521, high=0.2521)
    assert not list(changed_rows(result(kept), result(alike)))
    assert list(changed_rows(result(kept), result(other))) == [
        "one, curve, shown: 0.252 [0.252, 0.252]  before, 0.26 [0.26, 0.26]  now"
    ]


def test_a_table_has_a_line_a_setting_and_says_which_bound_is_not_kept() -> None:
    other = EXACT._replace(setting="ViT", value=1.0, low=0.5, high=1.0)
    assert _figures.as_table([EXACT, PSNR, other, PSNR._replace(setting="ViT", note="")]).splitlines() == [
        "| setting | exact, share | PSNR, dB | n |",
        "| --- | --- | --- | --- |",
        r"| LeNet | 0.5 [0.25, 0.75], goal >= 0.6: **not kept** | 71.2; one \| two | 4 |",
        "| ViT | 1 [0.5, 1], goal >= 0.6 | 71.2 | 4 |",
    ]


def test_what_was_not_measured_has_a_reason_in_place_of_a_figure() -> None:
    refused = PSNR._replace(value=0.0, n=0, note="refused: several steps")
    assert _figures.as_table([refused]).splitlines()[-1] == "| LeNet | refused: several steps | 0 |"


def test_a_page_shows_a_result_or_a_cell_of_it_between_its_marks(tmp_path: Path) -> None:
    write(result(EXACT, PSNR), tmp_path)
    page = "Before\n<!-- figures: toy -->\nold\n<!-- end -->\n<!-- figures: toy: one -->\n<!-- end -->\nAfter\n"
    text = _figures.render_page(page, "page.md", tmp_path)
    assert text.startswith("Before\n<!-- figures: toy -->\n\n| setting | exact, share | PSNR, dB | n |")
    assert "`python -m benchmarks toy --seconds 5`, 2026-11-30, commit abc, a processor" in text
    assert 'toy --seconds 5 --cells "one"`' in text
    assert text.endswith("<!-- end -->\nAfter\n")
    assert "old" not in text
    assert _figures.render_page(text, "page.md", tmp_path) == text
    with pytest.raises(FedsimError, match="page.md: .* no cell 'ones'. Did you mean 'one'"):
        _figures.render_page("<!-- figures: toy: ones -->\n<!-- end -->", "page.md", tmp_path)


def test_pages_show_the_rows_of_the_results() -> None:
    texts = {page.relative_to(ROOT): page.read_text(encoding="utf-8") for page in _figures.pages()}
    differ = [
        str(page)
        for page, text in texts.items()
        if _figures.without_staleness(_figures.render_page(text, str(page))) != _figures.without_staleness(text)
    ]
    assert differ == [], "make figures"


@pytest.mark.parametrize(
    ("gone", "sentence"),
    [
        ([], ""),
        (["attacks/gone.py"], " The code has changed since: attacks/gone.py."),
        (["attacks/a.py", "b.py", "c.py"], " The code has changed since: attacks/a.py and 2 more files."),
    ],
)
def test_the_line_under_a_table_names_code_that_has_changed(gone: list[str], sentence: str, tmp_path: Path) -> None:
    same = {"benchmarks/_rows.py": digest_of_file(ROOT / "benchmarks" / "_rows.py")}
    write(result(EXACT).model_copy(update={"sources": {**same, **dict.fromkeys(gone, "1")}}), tmp_path)
    text = _figures.render_page("<!-- figures: toy -->\n<!-- end -->\n", "page.md", tmp_path)
    assert f"in brackets 95 % intervals.{sentence}*" in text
    assert "changed" not in _figures.without_staleness(text)


def test_every_result_is_of_an_experiment_and_shown_on_its_page() -> None:
    known = experiments()
    for name, measured in _results.results().items():
        page = ROOT / "docs" / f"{known[name].page}.md"
        assert measured.experiment == name
        assert f"<!-- figures: {name}" in page.read_text(encoding="utf-8")


def test_a_page_lists_every_experiment_once() -> None:
    text = _figures.render_page("<!-- experiments -->\nold\n<!-- end -->\n", "docs/benchmarks/README.md")
    assert sorted(re.findall(r"`([a-z-]+)` [0-9.]+", text)) == sorted(experiments())
    assert "old" not in text
    assert "| [The exact frontier](../attacks/exact-frontier.md) | `exact-frontier` 10, " in text
