"""A table of a made run in every format, from one table."""

from __future__ import annotations

import json
from pathlib import Path

from fedsim.report.paper import Selection
from tests.report.paper.exporting import text


def test_a_run_as_latex_has_hash_interval_unit_and_n(run: Path) -> None:
    source = text(run, "tex", selection=Selection(metrics=("psnr",)), best=True)
    assert "% Dropout, scenario cafecafecafecafe" in source
    assert "attack & median PSNR (dB) & n" in source
    assert r"\textit{open\_\&\_50\%}" in source
    # median of 30, 31, 32 and 33 dB; of 8, 9, 10 and 11 dB
    assert (
        r"dlg (control) & \textbf{31.5} (30.0 to 33.0) & 4" in source
        or r"dlg & \textbf{31.5} (30.0 to 33.0) & 4" in source
    )
    assert r"dlg & 9.5 (8.0 to 11.0) & 4" in source


def test_a_failed_attack_is_failed_in_every_format_and_never_zero(run: Path) -> None:
    chosen = Selection(attacks=("idlg",))
    latex, markdown = text(run, "tex", selection=chosen), text(run, "md", selection=chosen)
    assert r"idlg & \multicolumn{5}{l}{failed} \\" in latex
    assert "% failed: no label was found" in latex
    assert "failed: no label was found" in markdown
    (row,) = json.loads(text(run, "json", selection=chosen))["rows"]
    assert row["failure"].startswith("failed")
    assert [cell["column"] for cell in row["cells"]] == ["attack"]


def test_the_formats_hold_the_same_numbers(run: Path) -> None:
    chosen = Selection(arms=("shut",), metrics=("psnr",))
    whole = json.loads(text(run, "json", selection=chosen))
    assert (whole["scenario_digest"], whole["confidence"]) == ("cafe" * 4, 0.95)
    (row,) = whole["rows"]
    measured = row["cells"][1]["measurement"]
    assert measured == {
        "metric": "psnr",
        "value": 9.5,
        "low": 8.0,
        "high": 11.0,
        "n": 4,
        "unit": "dB",
        "better": "higher",
    }
    assert "| shut | dlg | 9.5 (8.0 to 11.0) | 4 |" in text(run, "md", selection=chosen)
