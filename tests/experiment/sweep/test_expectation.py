"""What a sweep's scenario expects of each setting."""

import json
from pathlib import Path
from statistics import fmean

import pytest

from fedsim.experiment.expectation import Figure
from fedsim.experiment.expectation import figures as figures_of
from fedsim.experiment.sweep.expectation import figures
from fedsim.experiment.sweep.results import read
from fedsim.metrics.comparison import mean_over_seeds
from fedsim.metrics.statistics import wilson
from fedsim.record import RunRecord
from tests.experiment.sweep.sweeping import made, scenario


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("seeds")
    made(path, scenario(seeds=[1, 2], grid={"model.dropout": [0.0, 0.5]}))
    return path


def _values(path: Path, dropout: float, metric: str) -> list[float]:
    records = [(planned, record) for planned, record in read(path) if planned.values["model.dropout"] == dropout]
    kept = [figure for _, one in records if isinstance(one, RunRecord) for figure in figures_of(one)]
    return [figure.value.value for figure in kept if figure.metric == metric]


def _of(measured: list[Figure], arm: str, metric: str) -> Figure:
    return next(figure for figure in measured if (figure.arm, figure.metric) == (arm, metric))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("metric", ["test_accuracy", "psnr_median"])
def test_a_figure_of_a_setting_is_the_mean_over_its_seeds(seeds: Path, dropout: float, metric: str) -> None:
    values = _values(seeds, dropout, metric)
    assert len(values) == 2
    assert _of(figures(seeds), f"dropout {dropout}", metric).value.value == pytest.approx(fmean(values))


def test_units_of_all_seeds_count_and_means_have_an_interval_over_seeds(seeds: Path) -> None:
    pooled = _of(figures(seeds), "dropout 0.0", "success").value
    assert pooled == wilson(4 * pooled.value, 4)  # two updates each
    accuracy = _of(figures(seeds), "dropout 0.0", "test_accuracy").value
    assert accuracy == mean_over_seeds(_values(seeds, 0.0, "test_accuracy"))


def test_a_run_that_is_not_finished_counts_nothing_and_a_run_alone_keeps_its_arm(seeds: Path, tmp_path: Path) -> None:
    digest = json.loads((seeds / "sweep.json").read_text())["runs"][0]["digest"]
    alone = figures(seeds / "runs" / digest)
    assert {figure.arm for figure in alone} == {"all"}
    made(tmp_path / "s", scenario(seeds=[1], grid={"model.dropout": [0.0]}))
    (record,) = (tmp_path / "s").glob("runs/*/record.json")
    record.unlink()
    assert figures(tmp_path / "s") == []
