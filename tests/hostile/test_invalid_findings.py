"""An attack that is right where its control has nothing to find: the run ends with exit code 1 and says why."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedsim.record.store import read_record

ROOT = Path(__file__).parents[2]
ATTACK = '''
"""knows-better: reads the label from the last layer, and ignores the values of the public examples."""

import torch
from fedsim.core.registry import attack
from fedsim.core.types import Config
from fedsim.questions.attributes.hooks import AttributeAttack


class KnowsBetterConfig(Config):
    learns: bool = False


@attack("knows-better", summary="ignores public values")
class KnowsBetter(AttributeAttack[KnowsBetterConfig]):
    def describe(self, change, generator):
        (last,) = [tensor for tensor in change.values() if len(tensor) == 10 and tensor.dim() == 2]
        return -last.float().norm(dim=1)

    def read(self, known, labels, unknown, generator):
        if not self.config.learns:
            return torch.nn.functional.one_hot(unknown.argmin(1) % 2, 2).float()
        means = torch.stack([
            torch.nn.functional.one_hot(known[labels == value].argmin(1), unknown.shape[1]).float().mean(0)
            for value in range(2)
        ])
        return means[:, unknown.argmin(1)].T
'''
RUN = """
title = "who knows better"
data = { name = "digits", test_fraction = 0.5 }
model = { name = "mlp", width = 16, depth = 2, dropout = 0.0 }
federation = { clients = 40, batch_size = 1, engine = "vectorized" }
threat = { victims = 40, keep_updates = false }
"""
TABLE = """
[attributes]
public = 30
attacks = [{{ name = "knows-better", attribute = "parity", learns = {learns} }}]
"""


def run(folder: Path, learns: str) -> subprocess.CompletedProcess[str]:
    (folder / "attacks").mkdir(parents=True)
    (folder / "attacks" / "knows_better.py").write_text(ATTACK)
    (folder / "s.toml").write_text(RUN + TABLE.format(learns=learns))
    command = [sys.executable, "-P", "-c", "from fedsim.cli.main import main; main()"]
    return subprocess.run(
        [*command, "run", "s.toml", "--out", "out"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "300"},
        capture_output=True,
        check=False,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_an_attack_that_is_right_with_permuted_values_is_invalid_and_the_run_ends_with_one(tmp_path: Path) -> None:
    done = run(tmp_path, "false")
    assert done.returncode == 1, done.stderr
    attack, control = read_record(tmp_path / "out").arms[0].findings
    assert (attack.role, control.role) == ("attack", "negative-control")
    assert attack.value.value == 1.0
    assert (attack.state, control.is_above_chance) == ("invalid", True)
    assert f"{attack.label} is invalid: its control '{control.label}' is above chance" in done.stderr
    assert "No finding is valid" in done.stdout


@pytest.mark.slow
def test_an_attack_that_learns_from_public_values_is_valid_and_the_run_ends_with_zero(tmp_path: Path) -> None:
    done = run(tmp_path, "true")
    assert done.returncode == 0, done.stderr
    attack, control = read_record(tmp_path / "out").arms[0].findings
    assert (attack.state, control.is_above_chance) == ("recovered", False)
