"""A metric that somebody declares, and a scorer that gives it: nothing else has to be edited for it to be seen."""

import csv
import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from fedsim.cli import display, endings
from fedsim.core import registry
from fedsim.core.errors import FedsimError, ScenarioError
from fedsim.core.types import Reconstruction
from fedsim.experiment import runner
from fedsim.experiment.expectation import expectation, figures, measurement
from fedsim.experiment.sweep.export import write_csv
from fedsim.experiment.sweep.tuning import tune
from fedsim.metrics.success import Rule
from fedsim.questions.attacks import question
from fedsim.record import RunRecord
from fedsim.record.store import RunFolder, read_record
from fedsim.report import writing
from fedsim.report.document import Table
from fedsim.report.sweep import build
from fedsim.scenario import Scenario, parse
from fedsim.tasks.classification import Classification
from fedsim.threat.scoring import ScoredVictim, score
from fedsim.threat.victim import Victim

from .test_runner import Silent

SMALL: dict[str, Any] = {
    "title": "a metric of one's own",
    "data": {"name": "digits"},
    "model": {"name": "mlp", "width": 16, "depth": 1, "dropout": 0.0},
    "federation": {"clients": 2, "batch_size": 2},
    "threat": {"victims": 1},
    "attacks": [{"name": "inverting-gradients", "label": "IG", "max_iterations": 4}],
    "scoring": {"metric": "worst_pixel", "threshold": 0.5},
}


@pytest.fixture
def own_metrics(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A score of images of which less is better, and a figure of the model after a round, of which less is, too."""

    def tested(*asked: Any) -> dict[str, float]:
        found = evaluate(*asked)
        return {"test_error": 1.0 - found["test_accuracy"], "test_loss": found["test_loss"]}

    def worst_pixel(guesses: Tensor, originals: Tensor) -> Tensor:
        return (guesses - originals).abs().flatten(1).amax(1)

    with registry.temporary():
        registry.metric(
            "worst_pixel",
            title="worst pixel",
            summary="largest error of a pixel",
            over="item",
            better="lower",
            digits=3,
            statistics={"worst_pixel_mean": "mean"},
            worst=1.0,
            noun="image",
            decides=True,
            is_image_metric=True,
            verdict="within reach",
        )(worst_pixel)
        registry.metric("test_error", title="error rate", summary="share wrong", over="round", better="lower")(tested)
        evaluate = Classification.evaluate
        monkeypatch.setattr(Classification, "evaluate", tested)
        yield


def made(tmp_path: Path, scenario: Scenario) -> RunRecord:
    folder = RunFolder(tmp_path / "run")
    folder.create(overwrite=False)
    return runner.run(scenario, folder, Silent(), command="fedsim run", earlier=None)


@pytest.mark.usefixtures("own_metrics")
def test_a_metric_of_ones_own_is_in_record_tables_report_and_expectation(tmp_path: Path) -> None:
    made(tmp_path, parse(SMALL, "test"))
    record = read_record(tmp_path / "run")
    (attack,) = record.arms[0].attacks
    values = [item.values["worst_pixel"] for item in attack.victims[0].scores]
    assert record.metrics_by_name["worst_pixel"].better == "lower"
    assert attack.value is not None
    assert attack.extra_metrics["worst_pixel_mean"].value == pytest.approx(sum(values) / 2)
    assert attack.value.value == sum(value < 0.5 for value in values) / 2
    error = record.arms[0].rounds[-1].test_metrics["test_error"]
    found = {(own.attack, own.metric): own.value.value for own in figures(record)}
    assert found["IG", "worst_pixel_mean"] == attack.extra_metrics["worst_pixel_mean"].value
    assert found["", "test_error"] == error
    expected = expectation(figures(record), measurement(record))
    assert {"worst_pixel_mean", "test_error"} <= {own.metric for own in expected.figures}
    page = writing.build(tmp_path / "run").read_text()
    for told in ("mean worst pixel", "largest error of a pixel", "worst pixel &lt; 0.5", "error rate"):
        assert told in page, told
    assert (tmp_path / "run" / "figures" / "error-rate.csv").exists()
    for path in (tmp_path / "run" / "scores.csv", write_csv(tmp_path / "run")):
        with path.open(newline="") as file:
            assert [float(row["worst_pixel"]) for row in csv.DictReader(file)] == values
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    assert "error rate" in build(tmp_path / "copy").read_text()
    table = next(block for block in endings.figures(record) if isinstance(block, Table))
    headings = [heading.text for heading in table.headings]
    assert headings[1] == "images within reach"
    assert "mean worst pixel" in headings
    assert "worst pixel" in display.outcome(attack.victims[0])
    RunFolder(tmp_path / "run").create(overwrite=True)  # knows the pictures of that metric as its own


@pytest.mark.usefixtures("own_metrics")
@pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="optuna is not installed")
def test_settings_are_tuned_for_it(tmp_path: Path) -> None:
    space = {"attack": "IG", "space": {"learning_rate": [1e-5, 0.1]}, "trials": 2}
    (found,) = tune(parse({**SMALL, "tune": space}, "test"), tmp_path)
    assert found.metric == "worst pixel"
    assert -1.0 <= found.default <= found.score < 0.0


def test_a_figure_that_nobody_declared_is_an_error_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_stranger(victim: Victim, found: Reconstruction) -> ScoredVictim:
        own = score(victim, found)
        items = tuple(item.with_values({"psnrr": 1.0}) for item in own.record.scores)
        return own._replace(record=own.record.model_copy(update={"scores": items}))

    monkeypatch.setattr(question, "score", with_stranger)
    record = made(tmp_path, parse({**SMALL, "scoring": {}}, "test"))
    (victim,) = record.arms[0].attacks[0].victims
    assert victim.failure is not None
    assert "unknown metric 'psnrr'. Did you mean 'psnr'" in victim.failure
    assert "@metric" in victim.failure


@pytest.mark.parametrize(
    ("name", "told"),
    [("psn", "no metric 'psn'. Did you mean 'psnr'"), ("rouge_l", "'rouge_l' cannot decide; identified, mse, psnr")],
)
def test_a_metric_that_cannot_decide_is_refused_before_anything_runs(name: str, told: str) -> None:
    with pytest.raises(ScenarioError, match="test: scoring.metric: ") as caught:
        parse({**SMALL, "scoring": {"metric": name}}, "test")
    assert told in str(caught.value)


def test_examples_that_lack_the_deciding_metric_need_another_one() -> None:
    usual, rule = Rule.of("identified", 0.5), Rule.of("ssim", 0.5)
    assert usual.decides({"exact": 1.0, "rouge_l": 0.5})[0].name == "exact"
    assert usual.goal({"exact": 1.0, "rouge_l": 0.5}).name == "rouge_l"
    with pytest.raises(FedsimError, match="scoring.metric is 'ssim', but the guesses have mse, psnr"):
        rule.decides({"mse": 0.0, "psnr": 160.0})


def test_every_metric_is_declared_once_with_names_of_its_own() -> None:
    known = registry.every_metric()
    statistics = [name for own in known.values() for name in own.statistics]
    columns = [(own.over, own.column_name) for own in known.values()]
    assert len(set(statistics)) == len(statistics)
    assert len(set(columns)) == len(columns)
    assert all(own.by in known for own in known.values() if own.by)
    assert all(own.worst is not None for own in known.values() if own.decides or own.threshold is not None)
    dumped = json.loads(json.dumps([own.model_dump(mode="json") for own in known.values()]))
    assert [type(own).model_validate(raw) for own, raw in zip(known.values(), dumped, strict=True)] == [*known.values()]


def test_a_metric_of_a_round_has_no_statistics(scenario: Callable[..., Scenario]) -> None:
    assert scenario().scoring.metric == "identified"
    with pytest.raises(ValueError, match="leave 'statistics' out"):
        registry.metric("x", title="x", summary="x", over="round", statistics={"x": "mean"})
