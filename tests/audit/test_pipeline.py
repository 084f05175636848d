"""The workflow file of the page, run step by step with the built wheel, as a code host would."""

import json
import os
import re
import subprocess
import sys
import venv
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SUBJECT = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fedsim.audit import Subject


def make_client():
    source = torch.Generator().manual_seed(5)
    torch.manual_seed(1)
    images = nn.functional.interpolate(torch.rand(80, 1, 4, 4, generator=source), size=(8, 8), mode="bilinear")
    data = TensorDataset(images, torch.randint(4, (80,), generator=source))
    return Subject({model}, None, DataLoader(data, batch_size=8), defenses={defenses})
"""
DENSE = "nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 4))"
NOISE = '({"name": "gradient-noise", "scale": 10.0, "relative": True},)'

pytestmark = pytest.mark.slow


def steps() -> list[dict[str, Any]]:
    """Return the steps of the workflow in docs/audit.md."""
    page = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(# \.github/workflows/.*?)```", page, re.DOTALL)
    (job,) = yaml.safe_load(text)["jobs"].values()
    return job["steps"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return an environment in which `pip install fedsim-privacy` installs the built wheel beside what is here."""
    home = tmp_path_factory.mktemp("host")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(home / "dist")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    venv.create(home / "venv", with_pip=True)
    (site,) = (home / "venv" / "lib").glob("*/site-packages")
    present = [entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]
    (site / "present.pth").write_text("\n".join(present))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP", "VIRTUAL"))}
    return {
        **inherited,
        "PATH": f"{home / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(home / "dist"),
        "PIP_NO_DEPS": "1",
        "PIP_IGNORE_INSTALLED": "1",
    }


def run(line: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-e", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("defenses", "limit", "code", "state"),
    [("()", 0.05, 3, "broken"), (NOISE, 0.6, 0, "kept"), (NOISE, 0.05, 4, "undecided")],  # 0 of 4 may be up to 49 %
)
def test_its_steps_end_as_the_policy_says_and_leave_what_later_steps_upload(
    environment: dict[str, str], tmp_path: Path, defenses: str, limit: float, code: int, state: str
) -> None:
    (tmp_path / "my_pkg").mkdir()
    (tmp_path / "my_pkg" / "__init__.py").touch()
    (tmp_path / "my_pkg" / "train.py").write_text(SUBJECT.format(model=DENSE, defenses=defenses))
    (tmp_path / "pyproject.toml").write_text(f"[tool.fedsim.policy]\nmax_recovered = {limit}\n")
    install, audit = [step["run"] for step in steps() if "run" in step]
    done = run(install, tmp_path, environment)
    assert done.returncode == 0, done.stderr
    done = run(f"{audit} --batch-sizes 1 --minutes 1 --updates 4", tmp_path, environment)  # shorter than a pipeline's
    assert done.returncode == code, done.stdout + done.stderr
    suite = ET.parse(tmp_path / "audit.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("1", "0" if code == 0 else "1")
    results = json.loads((tmp_path / "audit.sarif").read_text())["runs"][0]["results"]
    assert [own["properties"]["state"] for own in results] == ([] if code == 0 else [state])
    for step in steps():
        assert "run" in step or step["uses"].startswith(("actions/", "github/codeql-action/"))
        for file in (step.get("with", {}).get(key) for key in ("sarif_file", "path")):
            assert file is None or (tmp_path / file).exists()
