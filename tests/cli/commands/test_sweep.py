"""`fedsim sweep`, as a person uses it: in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.experiment.sweep.sweeping import HERE, command


def test_the_command_line_says_what_failed_and_refuses_a_plain_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s.toml"
    path.write_text(f'title = "s"\n[data]\nname = "{HERE}:moody"\n[model]\nname = "mlp"\n[sweep]\nseeds = [1]\n')
    done = subprocess.run(command(path, tmp_path / "out"), check=False)
    told = capfd.readouterr()
    assert done.returncode == 1
    assert "not in the mood" in told.err
    assert "0 of 1 runs are finished" in told.out
    refused = subprocess.run([sys.executable, "-m", "fedsim.cli", "run", str(path)], check=False)
    assert refused.returncode == 2
    assert f"Use: fedsim sweep {path}" in capfd.readouterr().err.replace("\n", " ")
    assert json.loads((tmp_path / "out" / "sweep.json").read_text())["title"] == "s"
