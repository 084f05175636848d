"""A package of somebody else's adds a task, its metrics, data, a component and an attack; fedsim is not touched."""

import csv
import importlib
import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedsim.core import registry, seeding
from fedsim.core.types import WireEntry
from fedsim.experiment.sweep.export import write_csv
from fedsim.experiment.sweep.tuning import tune
from fedsim.federation.client import local_training
from fedsim.report import writing
from fedsim.report.sweep import build
from fedsim.scenario import load
from fedsim.scenario.world import build as build_world
from fedsim.threat.observe import observe
from fedsim.threat.victim import Victim
from tests.cli import typed

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = ROOT / "tests" / "openness"
SCENARIO = OUTSIDE / "house_prices.toml"
PACKAGE = "house_prices"
KINDS = ("datasets", "tasks", "metrics", "components", "attacks")
SWEEP = '\n[sweep.grid]\n"components.0.scale" = [0.0, 0.5]\n'


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the package is installed in."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(OUTSIDE / PACKAGE, folder / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    about = folder / "house_prices-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: house-prices\nVersion: 1\n")
    (about / "entry_points.txt").write_text("".join(f"[fedsim.{kind}]\nhouse-prices = {PACKAGE}\n" for kind in KINDS))
    return folder


def fedsim(site: Path, folder: Path, *arguments: str) -> str:
    done = typed.fedsim(*arguments, cwd=folder, path=[site])
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that the command made."""
    own = tmp_path_factory.mktemp("run")
    told = fedsim(site, own, "run", str(SCENARIO), "--out", "results")
    assert "price error" in told
    assert "median row error" in told
    return own / "results"


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package, in this process too."""
    with registry.temporary():  # first: it discovers what is installed, to keep it
        monkeypatch.syspath_prepend(str(site))
        importlib.import_module(PACKAGE)
        yield
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_record_holds_both_metrics_and_what_they_declare(folder: Path) -> None:
    record = json.loads((folder / "record.json").read_text())
    (arm,) = record["arms"]
    assert [list(own["test_metrics"]) for own in arm["rounds"]] == [["price_error"]] * 2
    (attack,) = arm["findings"]
    assert len(attack["victims"]) == 2
    for victim in attack["victims"]:
        (item,) = victim["scores"]
        assert victim["failure"] is None
        assert list(item["values"]) == ["row_error"]
        assert item["values"]["row_error"] < 1e-5  # rounding of a quotient in float32
        assert item["text"] == item["guess"]
        assert len(item["text"].split()) == 5
    assert attack["value"]["value"] == 1.0
    assert attack["extra_metrics"]["row_error_median"]["value"] < 1e-5  # as above
    assert {"price_error", "row_error"} <= {own["name"] for own in record["metrics"]}


def test_the_report_and_the_tables_of_a_run_show_them_without_the_package(folder: Path, tmp_path: Path) -> None:
    assert "row_error" not in registry.every_metric()
    own = tmp_path / "copy"
    shutil.copytree(folder, own)
    page = writing.build(own).read_text()
    for told in ("row error &lt; 0.05", "mean absolute error of a guessed row", "price error"):
        assert told in page, told
    for path in (own / "scores.csv", write_csv(own)):
        assert [float(row["row_error"]) for row in rows(path)] == pytest.approx([0.0, 0.0], abs=1e-5)  # as above
    assert {"price_error", "row_error"} <= rows(write_csv(own))[0].keys()
    page = build(own).read_text()
    assert "price error" in page
    assert "row error" in page


@pytest.mark.usefixtures("installed")
@pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="optuna is not installed")
def test_settings_are_tuned_for_the_metric(tmp_path: Path) -> None:
    (found,) = tune(load(SCENARIO, ["attacks.0.shrinkage=1.0"]), tmp_path)
    assert found.metric == "row error"
    assert found.settings == {"shrinkage": 0.0}
    assert found.default < -0.1  # the mean of every column is no guess of a row
    assert found.score == pytest.approx(0.0, abs=1e-5)  # rounding of a quotient in float32


@pytest.mark.slow
def test_a_sweep_of_the_command_shows_what_jitter_does_to_the_rows(site: Path, tmp_path: Path) -> None:
    (tmp_path / "sweep.toml").write_text(SCENARIO.read_text() + SWEEP)
    fedsim(site, tmp_path, "sweep", "sweep.toml", "--out", "sweep")
    fedsim(site, tmp_path, "export", "sweep", "--csv")
    errors: dict[str, list[float]] = {"0.0": [], "0.5": []}
    for row in rows(tmp_path / "sweep" / "table.csv"):
        errors[row["components.0.scale"]].append(float(row["row_error"]))
        assert float(row["price_error"]) > 0
    assert max(errors["0.0"]) < 1e-5  # rounding of a quotient in float32
    assert min(errors["0.5"]) > 0.1  # noise of 0.5 on each of five columns
    fedsim(site, tmp_path, "report", "sweep")
    page = (tmp_path / "sweep" / "report.html").read_text()
    assert "price error" in page
    assert "row error" in page
    told = fedsim(site, tmp_path, "tune", str(SCENARIO), "--out", "tuned")
    assert "row error" in told


@pytest.mark.usefixtures("installed")
def test_an_attack_of_the_package_matches_on_an_effect_of_the_package() -> None:
    world = build_world(load(SCENARIO, ["components.0.scale=0.5"]))
    first = world.models.first_weights
    update, truth = local_training(world, first, 1, 0)
    victim = Victim(world, WireEntry(1, 0, first, update), truth)
    blind, informed = observe(victim, ("batch-size",)), observe(victim, ("batch-size", "components"))
    method = registry.get("attack", "division")
    guesses = [method.make(method.config())(seen, seeding.generator(0, "attack")) for seen in (blind, informed)]
    assert [guess.is_exact for guess in guesses] == [True, False]
    assert guesses[1].notes == ("the row has noise of 0.5",)


@pytest.mark.usefixtures("installed")
def test_methods_of_the_package_are_found_by_their_kind() -> None:
    assert registry.get("task", "house-price").summary == "a number for every row of a table"
    assert registry.get("dataset", "houses").module == "house_prices.data"
    assert registry.every_metric()["row_error"].better == "lower"
