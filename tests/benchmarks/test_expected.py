"""Tables of what scenarios expect, on pages."""

from pathlib import Path

import pytest

from benchmarks._expected import as_tables
from benchmarks._figures import rendered
from fedsim.core.errors import FedsimError

SCENARIO = """
[threat]
victims = 20
[expected]
figures = [
    { arm = "a | b", metric = "test_accuracy", value = 0.917, tolerance = 0.02 },
    { arm = "a | b", attack = "auto", metric = "success", value = 0.5, tolerance = 0.05 },
    { arm = "a | b", attack = "auto", metric = "psnr_median", value = 12.345, tolerance = 1.0 },
]
"""


def test_arms_and_attacks_have_a_line_each_and_counts_an_interval(tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text(SCENARIO)
    arms, attacks, origin = as_tables("one", tmp_path).split("\n\n")
    assert arms.splitlines() == ["| arm | accuracy |", "| --- | --- |", "| a \\| b | 91.7 % |"]
    assert attacks.splitlines()[2] == "| a \\| b | auto | 50 % [30, 70] | 12.3 |"  # Wilson's interval of 10 of 20
    assert "fedsim run scenarios/one.toml --check" in origin
    assert "20 updates an arm" in origin


def test_a_page_is_told_which_scenario_is_missing_or_expects_nothing(tmp_path: Path) -> None:
    with pytest.raises(FedsimError, match="docs/a.md: there is no scenario '71_regresion'.*71_regression"):
        rendered("<!-- expected: 71_regresion -->\n<!-- end -->", "docs/a.md")
    (tmp_path / "none.toml").write_text("[threat]\nvictims = 1\n")
    with pytest.raises(FedsimError, match="no figures in its table"):
        as_tables("none", tmp_path)
