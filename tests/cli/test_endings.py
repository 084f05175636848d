"""What `fedsim run` prints at its end: the verdict, then the table; or the verdict alone; or JSON alone."""

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from fedsim.cli import endings
from fedsim.record import Finding, RunRecord
from fedsim.report.document.terminal import to_terminal
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
VERDICT = "3 of 3 images identified with closed form in each of 2 arms."


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    import fedsim
    from fedsim.scenario import load

    folder = tmp_path_factory.mktemp("run")
    (folder / "s.toml").write_text(SCENARIO)
    return fedsim.run(load(folder / "s.toml"), out=folder / "out").record


@pytest.fixture
def here(here: Path) -> Path:
    (here / "s.toml").write_text(SCENARIO)
    return here


def test_the_verdict_comes_before_the_table(command: Say, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(NARROW))
    code, told, _ = command("run", "s.toml")
    lines = told.splitlines()
    assert code == 0
    at = lines.index(VERDICT)
    assert lines[at + 1].startswith("Alone, DIA (dropout 0.0), DIA (dropout 0.5) recovered none")
    assert lines[at + 2].strip() == "Attacks by arm"
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
    assert found["arms"][0]["findings"][0]["value"]["value"] == 1.0
    assert found["arms"][0]["findings"][0]["label"] == "closed form"


def test_a_narrow_table_breaks_no_word_and_a_wide_one_has_every_interval(record: RunRecord) -> None:
    shown = {width: printed(record, width) for width in (NARROW, 200)}
    assert max(len(line.rstrip()) for line in shown[NARROW].splitlines()) <= NARROW
    for word in ("identified", "closed form", "dropout 0.5"):
        assert word in shown[NARROW]
    assert "…" not in shown[NARROW]
    assert shown[200].count("[") > shown[NARROW].count("[") == 4  # of four attacks' success alone


def test_findings_are_a_table_a_question_with_every_interval_where_there_is_room() -> None:
    bits = of_traces(0.3, 0.4, label="figures (bits)", metric="trace_bits", chance_level=0.1, p_value=0.01)
    found = (STRONG, CONTROL, bits, LOST, of_attributes("a", "parity", 0.9, 0.8))
    run = reports.run([reports.arm("all", [], findings=found)])
    shown = {width: printed(run, width) for width in (NARROW, 200)}
    attributes, traces = shown[200].split("What generation gives away")
    assert attributes.splitlines()[0].strip() == "What are the data like?"
    assert " p " not in attributes.splitlines()[1]
    lines = [" ".join(line.split()) for line in traces.splitlines()]
    about = "question prompt, view counts, by aded"
    assert f"all forest (prompt) prompt told 60% [50 to 70] 2% \N{EN DASH} 50 {about}" in lines
    assert "all text (prompt) (positive-control) prompt told 96% [90 to 100] 2% \N{EN DASH} 50 view outputs" in lines
    assert f"all figures (bits) bits 0.40 [0.30 to 0.50] 0.10 bits 0.01 50 {about}" in lines
    assert "all lost (prompt) failed - - - - -" in lines
    assert max(len(line.rstrip()) for line in shown[NARROW].splitlines()) <= NARROW


def test_an_epsilon_stands_with_everything_that_it_needs() -> None:
    one_step = "1 step of noise multiplier 2 in 1 round, those of the client that was sampled most often"
    changes = {"source": "local-dp", "unit": "client", "adjacency": "replace", "sampling_rate": 1.0}
    stated = (reports.guarantee(), reports.guarantee(**changes, composition=one_step))
    run = reports.run([reports.arm("noisy", [], guarantees=stated), reports.arm("plain", [])])
    assert printed(run, NARROW).splitlines() == [
        "Guarantees",
        (
            "  noisy: dp-sgd; figure: epsilon 1.84 at delta 1e-05 (RDP 2.1); unit: one record of a client, "
            "one more or less; sampling: Poisson sampling at rate 0.01; composition: 1000 steps of noise "
            "multiplier 1 in 10 rounds, those of the client that was sampled most often; against: the server"
        ),
        "  noisy: local-dp; figure: epsilon 1.84 at delta 1e-05 (RDP 2.1); unit: a client with all records, one "
        f"replaced; sampling: no sampling; composition: {one_step}; against: the server",
    ]


def test_what_a_finding_says_of_itself_comes_after_the_tables() -> None:
    context = of_traces(
        1.4, 1.5, label="aded", role="context", metric="tokens_per_step", note="aded, the global model."
    )
    run = reports.run([reports.arm("all", [], findings=(STRONG, context))])
    assert printed(run, NARROW).splitlines()[-1] == "aded, the global model."


def printed(record: RunRecord, width: int) -> str:
    """Return what a console of this width shows."""
    text = StringIO()
    to_terminal(endings.figures(record), Console(file=text, width=width))
    return text.getvalue()


def test_json_holds_every_finding(tmp_path: Path) -> None:
    run = reports.run([reports.arm("all", [], findings=(STRONG, LOST))])
    (arm,) = endings.summary_of(run, tmp_path)["arms"]
    assert [Finding.model_validate(own) for own in arm["findings"]] == [STRONG, LOST]
