"""A package of somebody else's adds a question with one method and one metric; fedsim is not touched."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from fedsim.core import registry
from tests.cli import typed

OUTSIDE = Path(__file__).resolve().parent / "openness"
SCENARIO = OUTSIDE / "digit_parity.toml"
PACKAGE = "digit_parity"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the package is installed in."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(OUTSIDE / PACKAGE, folder / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    about = folder / "digit_parity-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: digit-parity\nVersion: 1\n")
    (about / "entry_points.txt").write_text(f"[fedsim.questions]\nparity = {PACKAGE}\n")
    return folder


def fedsim(site: Path, folder: Path, *arguments: str) -> str:
    done = typed.fedsim(*arguments, cwd=folder, path=[site])
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def told_and_folder(site: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What the command printed, and the folder of its run."""
    place = tmp_path_factory.mktemp("run")
    return fedsim(site, place, "run", str(SCENARIO), "--out", "results"), place / "results"


def test_record_terminal_table_page_and_expectations_have_the_question(
    site: Path, told_and_folder: tuple[str, Path]
) -> None:
    told, folder = told_and_folder
    assert "parity" not in registry.methods("question")
    record = json.loads((folder / "record.json").read_text())
    (arm,) = record["arms"]
    assert [(own["label"], own.get("role", "attack")) for own in arm["findings"]] == [
        ("signs of the bias", "attack"),
        ("a coin", "negative-control"),
    ]
    assert arm["findings"][0]["value"]["value"] == 1.0  # of single digits the sign says it
    assert {"parity_told"} <= {own["name"] for own in record["metrics"]}
    assert [own["title"] for own in record["questions"]] == ["Even or odd?"]
    assert "Even or odd?" in told
    assert "parity told" in told
    with (folder / "findings.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert (rows[0]["label"], rows[0]["state"]) == ("signs of the bias", "recovered")
    page = (folder / "report.html").read_text()
    assert "Even or odd?" in page
    assert "parity told" in page
    shutil.copy(SCENARIO, folder.parent)
    fedsim(site, folder.parent, "expect", "results", SCENARIO.name)
    expected = json.loads((folder.parent / "expected" / f"{SCENARIO.stem}.json").read_text())["figures"]
    assert {"attack": "signs of the bias", "metric": "parity_told", "value": 1.0} in [
        {key: own[key] for key in ("attack", "metric", "value") if key in own} for own in expected
    ]


@pytest.mark.slow
def test_sweep_comparison_and_policy_read_it(site: Path, told_and_folder: tuple[str, Path], tmp_path: Path) -> None:
    _, folder = told_and_folder
    (tmp_path / "sweep.toml").write_text(SCENARIO.read_text() + "\n[sweep]\nseeds = [1, 2]\n")
    fedsim(site, tmp_path, "sweep", "sweep.toml", "--out", "sweep")
    fedsim(site, tmp_path, "report", "sweep")
    page = (tmp_path / "sweep" / "report.html").read_text()
    assert "Even or odd?" in page
    assert "parity_told" in page  # the policy's threshold, which is broken
    assert "No setting keeps every threshold" in page
    fedsim(site, tmp_path, "export", "sweep", "--csv")
    with (tmp_path / "sweep" / "findings.csv").open(newline="") as file:
        assert {(row["seed"], row["label"]) for row in csv.DictReader(file)} == {
            (seed, label) for seed in ("1", "2") for label in ("signs of the bias", "a coin")
        }
    shutil.copytree(folder, tmp_path / "again")
    told = fedsim(site, tmp_path, "compare", str(folder), str(tmp_path / "again"))
    assert "parity told" in told
    assert "no difference shown" in told


def test_a_mistake_in_its_table_is_named(site: Path, tmp_path: Path) -> None:
    done = typed.fedsim("run", str(SCENARIO), "--set", "parity.bais=x", cwd=tmp_path, path=[site])
    assert done.returncode == 2
    assert "parity.bais: there is no such key. Did you mean 'bias'?" in done.stderr
    done = typed.fedsim("run", str(SCENARIO), "--set", "parity.bias=nowhere", cwd=tmp_path, path=[site])
    assert done.returncode == 2
    assert "parity.bias: the model has no parameter 'nowhere'." in done.stderr
