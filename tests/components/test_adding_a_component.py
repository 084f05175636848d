"""The page "How to add a component", followed to the letter in an empty folder."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.typed import fedsim

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "components" / "adding-a-component.md"


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write every code block of the page into the file it names."""
    folder = tmp_path_factory.mktemp("follower")
    blocks = re.findall(r"^```\w+ file=(\S+)\n(.*?)^```", PAGE.read_text(), flags=re.S | re.M)
    for name, text in blocks:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert [name for name, _ in blocks] == ["my_flip/__init__.py", "pyproject.toml", "flip.toml", "test_flip.py"]
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*install, "--target", str(folder / "site"), str(folder)], check=True, capture_output=True)
    return folder


def run(folder: Path, *command: str) -> str:
    done = fedsim(*command, cwd=folder, path=[folder / "site"])
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_component_is_listed_runs_and_is_told_of(followed: Path) -> None:
    components = json.loads(run(followed, "list", "components", "--json"))
    (listed,) = [component for component in components if component["name"] == "my-flip"]
    assert listed["hook"] == "augment"
    run(followed, "run", "flip.toml", "--out", "results")
    record = json.loads((followed / "results" / "record.json").read_text())
    (attack,) = record["arms"][0]["findings"]
    assert all(victim["objective"] < 1e-9 for victim in attack["victims"])
    assert max(item["values"]["psnr"] for victim in attack["victims"] for item in victim["scores"]) < 40


@pytest.mark.slow
def test_its_own_test_passes(followed: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "test_flip.py", "-p", "no:cacheprovider"],
        cwd=followed,
        env={**os.environ, "PYTHONPATH": f"{followed / 'site'}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
