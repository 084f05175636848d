"""Tables of a made run and a made sweep, in every format from one table."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from fedsim.core.errors import FedsimError
from fedsim.report.paper import Selection, Suffix, read_paper_table, write
from tests.report.made_findings import STRONG, UNREAD, of_attributes

ALL = Selection()


@pytest.fixture
def run(tmp_path: Path, records: ModuleType) -> Path:
    lost = records.attack("idlg", [records.failed(0, "no label was found")])
    found = (of_attributes("trait", "parity", 0.9, 0.8), UNREAD)
    made = records.run(
        [
            records.arm("open_&_50%", [records.attack("dlg", records.recovered()), lost]),
            records.arm("shut", [records.attack("dlg", records.missed())], findings=found),
        ]
    )
    records.save(tmp_path, made)
    return tmp_path


def text(folder: Path, suffix: Suffix, name: str = "", selection: Selection = ALL, *, best: bool = False) -> str:
    return write(folder, read_paper_table(folder, name, selection, marks_best=best), suffix).read_text()


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


def test_a_table_of_an_unfinished_run_says_so(tmp_path: Path, records: ModuleType) -> None:
    cut = records.run([records.arm("one", [records.attack("dlg", records.recovered())])], status="interrupted")
    records.save(tmp_path, cut)
    said = "The run is interrupted: arms or attacks may be missing."
    assert said in text(tmp_path, "tex").splitlines()[0]
    assert said in text(tmp_path, "md")
    assert json.loads(text(tmp_path, "json"))["missing"] == said


def test_a_question_is_named_by_name_or_title(run: Path) -> None:
    named = text(run, "tex", "attributes")
    assert named == text(run, "tex", "What are the data like?")
    assert r"trait & read right & 90\% (80 to 100) & 50\% & 60" in named
    with pytest.raises(FedsimError, match="Did you mean 'attributes'"):
        read_paper_table(run, "atributes", Selection())


def test_a_run_without_findings_has_no_table(tmp_path: Path, records: ModuleType) -> None:
    records.save(tmp_path, records.run([records.arm("one", [])]))
    with pytest.raises(FedsimError, match="no table"):
        read_paper_table(tmp_path, "", Selection())


def test_a_sweep_has_settings_attacks_and_questions(tmp_path: Path, records: ModuleType, sweeps: ModuleType) -> None:
    runs = sweeps.typical(records, seeds=(1, 2))
    runs[0] = (*runs[0][:2], sweeps.run(records, "none", 1, records.recovered(8), findings=(STRONG,)))
    folder = sweeps.save(tmp_path / "s", records, runs)
    source = text(folder, "tex", best=True)
    assert "% Dropout, scenario feedfeedfeedfeed" in source
    # mean accuracy of both undefended seeds, 0.90 and 0.92: the best; attack success compares defenses, so none is best
    assert source.count(r"\textbf{91.") == 1
    assert r"\textbf{100\%}" not in source
    assert r"& \textbf{0.5} (" in source  # 91.0% less 90.5%; much noise loses 1.5
    assert "runs have no record" not in source
    attacks = text(folder, "md", "attacks", Selection(arms=("gradient-noise 1.0",)))
    assert "| gradient-noise 1.0 | ig | 0% (" in attacks
    sweeps.save(tmp_path / "cut", records, [*runs[:-1], (*runs[-1][:2], None)])
    assert "1 of 6 runs have no record." in text(tmp_path / "cut", "tex").splitlines()[0]
    assert "generation" in {name for name in ("generation",) if read_paper_table(folder, name, Selection())}
