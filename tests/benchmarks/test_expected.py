"""Tables of what scenarios expect, on pages."""

import tomllib
from pathlib import Path

import pytest

from benchmarks._expected import as_tables
from benchmarks._figures import render_page
from fedsim.core.errors import FedsimError
from fedsim.experiment.expectation import Expected, write_expected

FIGURES = """
measured = { date = "2026-12-03", commit = "abc", processor = "a processor" }
figures = [
    { arm = "a | b", metric = "test_accuracy", value = 0.917, tolerance = 0.02 },
    { arm = "a | b", attack = "auto", metric = "success", value = 0.5, low = 0.2993, high = 0.7007, tolerance = 0.05 },
    { arm = "a | b", attack = "auto", metric = "psnr_median", value = 12.345, tolerance = 1.0 },
    { arm = "a | b", attack = "map", metric = "success", value = 0.325, tolerance = 0.2 },
    { arm = "a | b", attack = "tag", metric = "psnr_median", value = 9.0, low = 8.5, high = 11.0, tolerance = 1.0 },
    { arm = "a | b", attack = "map", metric = "attribute_balanced_accuracy", value = 0.9, tolerance = 0.05 },
    { arm = "a | b", attack = "tag", metric = "attribute_balanced_accuracy", value = 0.5, tolerance = 0.06 },
    { arm = "c", attack = "auto", metric = "psnr_median", value = 20.0, tolerance = 1.0 },
    { arm = "c", attack = "map", metric = "psnr_median", value = 30.0, tolerance = 1.0 },
    { arm = "c", attack = "tag", metric = "psnr_median", value = 40.0, tolerance = 1.0 },
]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "one.toml").touch()
    write_expected(Expected.model_validate(tomllib.loads(FIGURES)), tmp_path / "one.toml")
    return tmp_path


def test_arms_and_attacks_have_a_line_each_and_figures_their_interval_or_what_is_tolerated(folder: Path) -> None:
    arms, attacks, origin = as_tables("one", folder=folder).split("\n\n")
    assert arms.splitlines() == ["| arm | accuracy |", "| --- | --- |", "| a \\| b | 91.7 % |"]
    assert attacks.splitlines()[2:5] == [
        "| a \\| b | auto | 50 % [30, 70] | 12.3 |  |",
        "| a \\| b | map | 32.5 % ± 20 |  | 90 % ± 5 |",
        "| a \\| b | tag |  | 9 [8.5, 11] | 50 % ± 6 |",
    ]
    assert "fedsim run scenarios/one.toml --check" in origin
    assert "; measured 2026-12-03, commit abc, a processor, in brackets 95 % intervals, behind ± that tol" in origin


def test_of_one_metric_arms_stand_against_attacks(folder: Path) -> None:
    table, _ = as_tables("one", "psnr_median", folder=folder).split("\n\n")
    heads, _, *lines = table.splitlines()
    assert heads == "| PSNR, dB | a \\| b | c |"
    assert lines == ["| auto | 12.3 | 20 |", "| tag | 9 [8.5, 11] | 40 |", "| map |  | 30 |"]


def test_what_all_lines_share_needs_no_column(folder: Path) -> None:
    of_arm, _ = as_tables("one", "success, psnr_median", "b", folder).split("\n\n")
    assert of_arm.splitlines()[0] == "| attack | success rate | PSNR, dB |"
    of_attack, _ = as_tables("one", "success, psnr_median", "auto", folder).split("\n\n")
    assert of_attack.splitlines()[0] == "| arm | success rate | PSNR, dB |"


def test_a_page_is_written_again_as_it_was() -> None:
    page = render_page("<!-- expected: 71_regression: success, target_read: squared -->\n<!-- end -->\n", "docs/a.md")
    assert render_page(page, "docs/a.md") == page
    assert "target read" in page
    assert "huber" not in page


def test_a_page_is_told_which_scenario_metric_or_arm_is_missing(folder: Path) -> None:
    with pytest.raises(FedsimError, match="docs/a.md: unknown scenario '71_regresion'.*71_regression"):
        render_page("<!-- expected: 71_regresion -->\n<!-- end -->", "docs/a.md")
    with pytest.raises(FedsimError, match="docs/a.md: scenario '71_regression' expects no 'succes'.*success"):
        render_page("<!-- expected: 71_regression: succes: squared -->\n<!-- end -->", "docs/a.md")
    with pytest.raises(FedsimError, match="an arm or attack 'd'. Arms: a .* b; c"):
        as_tables("one", "success", "d", folder)
    (folder / "none.toml").write_text("[threat]\nvictims = 1\n")
    with pytest.raises(FedsimError, match="no expected figures: no file none.json"):
        as_tables("none", folder=folder)
