"""Tables of a made run and a made sweep by their names on the page."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from fedsim.core.errors import FedsimError
from fedsim.report.paper import Selection, read_paper_table
from tests.report.made_findings import STRONG
from tests.report.paper.exporting import text


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
