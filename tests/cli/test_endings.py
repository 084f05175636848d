"""What `fedsim run` prints at its end: the verdict, then the table; or the verdict alone; or JSON alone."""

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from fedsim.cli import endings
from fedsim.record import Finding, RunRecord
from tests.cli.typed import Say
from tests.report import records as reports
from tests.report.made_findings import CONTROL, LOST, STRONG, of_attributes, of_traces

NARROW = 80
SCENARIO = """
title = "t"
[data]
name = "digits"
[model]
name = "mlp"
width = 24
[federation]
clients = 4
[threat]
victims = 3
[[attacks]]
name = "closed-form-linear"
label = "closed form"
[[attacks]]
name = "dropout-inversion"
label = "DIA"
max_iterations = 3
[arms]
"model.dropout" = [0.0, 0.5]
"""
VERDICT = "3 of 3 images identified by closed form in each of 2 arms."


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    import fedsim
    from fedsim.scenario import load

    folder = tmp_path_factory.mktemp("run")
    (folder / "s.toml").write_text(SCENARIO)
    return fedsim.run(load(folder / "s.toml"), out=folder / "out").record


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.toml").write_text(SCENARIO)
    return tmp_path


def test_the_verdict_comes_before_the_table(command: Say, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(NARROW))
    code, told, _ = command("run", "s.toml")
    lines = told.splitlines()
    assert code == 0
    at = lines.index(VERDICT)
    assert lines[at + 1].startswith("Alone, DIA (dropout 0.0), DIA (dropout 0.5) recovered none")
    assert lines[at + 2].strip() == "t"
    assert lines[-1] == "Report: results/s/report.html"


def test_quiet_is_the_verdict_alone(command: Say, here: Path) -> None:
    code, told, complaints = command("run", "s.toml", "--quiet")
    assert (code, complaints) == (0, "")
    assert [told.splitlines()[0], told.splitlines()[2]] == [VERDICT, "Report: results/s/report.html"]
    assert len(told.splitlines()) == 3


def test_json_is_one_document_with_verdict_and_figures(command: Say, here: Path) -> None:
    code, told, _ = command("run", "s.toml", "--json")
    found = json.loads(told)
    assert code == 0
    assert found["verdict"][0] == VERDICT
    assert Path(found["record"]).exists()
    assert [arm["name"] for arm in found["arms"]] == ["dropout 0.0", "dropout 0.5"]
    assert found["arms"][0]["attacks"][0]["success"]["value"] == 1.0
    assert found["arms"][0]["attacks"][0]["label"] == "closed form"


def test_a_narrow_table_breaks_no_word_and_a_wide_one_has_every_interval(record: RunRecord) -> None:
    shown = {}
    for width in (NARROW, 200):
        text = StringIO()
        console = Console(file=text, width=width)
        console.print(endings.results(record, console))
        shown[width] = text.getvalue()
    assert max(len(line.rstrip()) for line in shown[NARROW].splitlines()) <= NARROW
    for word in ("identified", "closed form", "dropout 0.5"):
        assert word in shown[NARROW]
    assert "…" not in shown[NARROW]
    assert shown[200].count("[") > shown[NARROW].count("[") == 4  # of four attacks' success alone


def test_findings_are_a_table_a_question_with_every_interval_where_there_is_room() -> None:
    bits = of_traces(0.3, 0.4, label="figures (bits)", metric="trace_bits", chance=0.1, p=0.01)
    found = (STRONG, CONTROL, bits, LOST, of_attributes("a", "parity", 0.9, 0.8))
    run = reports.run([reports.arm("all", [], findings=found)])
    shown = {width: printed(endings.findings(run, Console(width=width)), width) for width in (NARROW, 200)}
    attributes, traces = shown[200]
    assert "What are the data like?" in attributes
    assert " p " not in attributes.splitlines()[1]
    lines = [" ".join(line.split()) for line in traces.splitlines()]
    assert lines[0] == "What generation gives away"
    assert "all forest (prompt) prompt told 60% [50 to 70] 2% \N{EN DASH} 50" in lines
    assert "all text (prompt) (must succeed) prompt told 96% [90 to 100] 2% \N{EN DASH} 50" in lines
    assert "all figures (bits) bits 0.40 [0.30 to 0.50] 0.10 bits 0.01 50" in lines
    assert "all lost (prompt) failed - - - -" in lines
    assert max(len(line.rstrip()) for text in shown[NARROW] for line in text.splitlines()) <= NARROW


def printed(tables: list[Table], width: int) -> list[str]:
    """Return each table as a console of this width shows it."""
    texts: list[str] = []
    for table in tables:
        text = StringIO()
        Console(file=text, width=width).print(table)
        texts.append(text.getvalue())
    return texts


def test_json_holds_every_finding(tmp_path: Path) -> None:
    run = reports.run([reports.arm("all", [], findings=(STRONG, LOST))])
    (arm,) = endings.summary_of(run, tmp_path)["arms"]
    assert [Finding.model_validate(own) for own in arm["findings"]] == [STRONG, LOST]
