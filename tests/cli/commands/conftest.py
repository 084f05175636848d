"""The folder of a sweep of two runs."""

from pathlib import Path

import pytest

from fedsim.scenario import load
from tests.experiment.sweep.sweeping import made

SWEEP = """
title = "small <script>alert(1)</script>"
[data]
name = "digits"
[model]
name = "mlp"
width = 8
depth = 1
dropout = 0.0
[federation]
clients = 4
[threat]
victims = 4
[[attacks]]
name = "closed-form-linear"
[sweep]
seeds = [1]
[sweep.grid.defense.none]
[sweep.grid.defense.noise]
defenses = [{ name = "gradient-noise", scale = 10.0 }]
"""


@pytest.fixture(scope="session")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("commands")
    (path / "s.toml").write_text(SWEEP)
    made(path / "s", load(path / "s.toml"))
    return path
