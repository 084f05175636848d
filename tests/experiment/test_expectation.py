"""What a scenario expects, printed from one run and kept by the next."""

from pathlib import Path

import pytest

from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.experiment.expectation import (
    Expected,
    ExpectedFigure,
    Figure,
    Measurement,
    departures,
    expectation,
    figures,
    hashes,
    measurement,
    read_expected,
    write_expected,
)
from fedsim.record import Finding, Interval
from fedsim.record.store import read_record
from tests.cli.typed import Say, fedsim
from tests.report import records

METRICS = registry.every_metric()
SMALL = """
title = "small"
[data]
name = "digits"
[model]
name = "mlp"
width = 24
[federation]
clients = 4
[[attacks]]
name = "inverting-gradients"
label = "IG"
max_iterations = 5
"""


def _figure(name: str, value: float, n: int, metric: str = "", half: float | None = None) -> Figure:
    ends = (None, None) if half is None else (value - half, value + half)
    of = METRICS.get(metric or name)
    return Figure("all", "a", name, Interval(value=value, low=ends[0], high=ends[1], n=n), of, half is not None)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("expecting")
    (folder / "s.toml").write_text(SMALL)
    done = fedsim("run", "s.toml", "--out", "out", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def here(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run_folder)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.mark.slow
def test_a_run_keeps_the_table_that_it_printed_and_departs_from_another(
    run_folder: Path, command: Say, here: None
) -> None:
    (run_folder / "same.toml").write_text(SMALL)
    assert command("expect", "out", "same.toml")[0] == 0
    written = read_expected(Path("same.toml"))
    assert {(own.arm, own.attack, own.metric) for own in written.figures} >= {
        ("all", "", "test_accuracy"),
        ("all", "IG", "success"),
        ("all", "IG", "psnr_median"),
    }
    kept = command("run", "same.toml", "--check", "--out", "same")
    assert kept[0] == 0, kept[2]
    assert f"{written.count} of {written.count} are as expected" in kept[1]
    wrong = [own.model_copy(update={"value": own.value + 100}) for own in written.figures]
    (run_folder / "other.toml").write_text(SMALL)
    write_expected(Expected(figures=tuple(wrong)), Path("other.toml"))
    gone = command("run", "other.toml", "--check", "--out", "other")
    assert gone[0] == 1
    assert "Departs: all, IG, psnr_median is" in gone[2]
    assert "Traceback" not in gone[2]


def test_a_check_without_figures_or_of_a_changed_scenario_is_refused_before_anything_runs(
    run_folder: Path, command: Say, here: None
) -> None:
    bare = command("run", "s.toml", "--check", "--out", "bare")
    assert bare[0] == 2
    assert "fedsim expect FOLDER" in bare[2]
    changed = command("run", "s.toml", "--check", "--seed", "4", "--out", "bare")
    assert changed[0] == 2
    assert "leave out --set and --seed" in changed[2]
    assert not (run_folder / "bare").exists()


def test_departures_name_what_is_wrong(run_folder: Path) -> None:
    record = read_record(run_folder / "out")
    model_hash = record.arms[0].model_hash
    own = next(figure for figure in figures(record) if figure.metric == "psnr_median")
    asked = {"arm": own.arm, "attack": own.attack, "metric": own.metric}
    near = Expected.model_validate({"figures": [{**asked, "value": own.value.value + 0.5, "tolerance": 0.6}]})
    assert departures(figures(record), hashes(record), near) == []
    assert departures(figures(record), hashes(record), Expected(model_hash={"all": model_hash})) == []
    assert departures(figures(record), hashes(record), Expected(model_hash={"all": "0"})) == [
        f"all: hash of the model is {model_hash}, expected 0"
    ]
    far = Expected.model_validate({"figures": [{**asked, "value": own.value.value + 0.7, "tolerance": 0.6}]})
    assert len(departures(figures(record), hashes(record), far)) == 1
    misspelt = Expected.model_validate({"figures": [{**asked, "metric": "psnr_medain", "value": 1.0}]})
    assert (
        "no such value in the results. Did you mean 'all, IG, psnr_median'"
        in departures(figures(record), hashes(record), misspelt)[0]
    )
    assert expectation(figures(record), measurement(record)).figures


@pytest.mark.parametrize(
    ("figure", "tolerance"),
    [
        (_figure("psnr_median", 18.0, 4, "psnr"), 1.0),
        (_figure("composites.psnr_trained", 150.0, 4, "psnr_trained"), 10.0),
        (_figure("success", 0.5, 4), 0.25),
        (_figure("label_accuracy", 0.5, 4), 0.25),
        (_figure("test_accuracy", 0.8, 0), 0.02),
        (_figure("epsilon", 8.0, 0), 0.16),
        (_figure("trace_bits", 0.8, 270, half=0.2), 0.2828),
        (_figure("trace_bits", 0.0, 270, half=0.0), 0.02),
    ],
)
def test_the_tolerance_follows_what_can_change_on_another_processor(figure: Figure, tolerance: float) -> None:
    assert figure.tolerance == pytest.approx(tolerance)


def test_a_written_file_is_read_as_it_was_and_a_broken_one_is_named(tmp_path: Path) -> None:
    scenario = tmp_path / "s.toml"
    assert read_expected(scenario) == Expected()
    figures = (
        ExpectedFigure(metric="psnr_median", value=3.0),
        ExpectedFigure(arm="a", metric="success", value=0.5, low=0.1),
    )
    expected = Expected(measured=Measurement(date="2026-01-02"), figures=figures, model_hash={"all": "0"})
    file = write_expected(expected, scenario)
    assert read_expected(scenario) == expected
    assert len(file.read_text().splitlines()) == len(figures) + 2
    file.write_text(file.read_text().replace("0.5", '0.5, "tolerance": -1'))
    with pytest.raises(FedsimError, match="expected/s.json: expected the figures that `fedsim expect` writes"):
        read_expected(scenario)


def test_every_figure_of_a_finding_may_be_expected_and_one_that_failed_has_none() -> None:
    value, seen = Interval(value=0.3, low=0.2, high=0.5, n=100), Interval(value=0.6, low=None, high=None, n=200)
    own = Finding(
        question="membership", label="lira", metric="tpr_at_fpr_0.01", value=value, extra_metrics={"auc": seen}
    )
    lost = Finding(question="membership", label="lost", metric="auc", failure="no shadows")
    record = records.run([records.arm("all", [], findings=(own, lost), rounds=())])
    named = [(figure.attack, figure.metric, figure.value, figure.is_drawn_anew) for figure in figures(record)]
    assert named == [("lira", "tpr_at_fpr_0.01", value, True), ("lira", "auc", seen, True)]
    first, second = expectation(figures(record), measurement(record)).figures
    assert (first.attack, first.metric) == ("lira", "tpr_at_fpr_0.01")
    assert (first.value, first.low, first.high) == (0.3, 0.2, 0.5)
    assert (second.attack, second.metric, second.low) == ("lira", "auc", None)
    expected = Expected.model_validate(
        {"figures": [{"arm": "all", "attack": "lira", "metric": "auc", "value": 0.5, "tolerance": 0.05}]}
    )
    assert departures(figures(record), hashes(record), expected) == ["all, lira, auc is 0.6, expected 0.5 within 0.05"]
