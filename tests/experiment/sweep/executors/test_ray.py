"""A Ray cluster makes the same bytes."""

import importlib.util
import os
import subprocess
from pathlib import Path

import pytest

from fedsim.core.errors import MissingExtra
from fedsim.experiment.sweep.executors.ray import open_ray
from fedsim.experiment.sweep.export import write_csv
from tests.experiment.sweep.sweeping import HERE, command


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_a_ray_cluster_makes_the_same_bytes_and_a_run_that_raises_fails_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(
        'title = "s"\n[model]\nname = "mlp"\nwidth = 8\ndepth = 1\n[federation]\nclients = 4\n'
        '[[attacks]]\nname = "closed-form-linear"\n[sweep.grid]\n'
        f'"data.name" = ["digits", "{HERE}:moody"]\n'
    )
    for out, options in (("here", ()), ("there", ("--ray", "local", "--jobs", "2"))):
        done = subprocess.run(command(path, tmp_path / out, *options), check=False, capture_output=True, text=True)
        assert (done.returncode, "1 of 2 runs are finished" in done.stdout) == (1, True)
        assert "not in the mood" in done.stderr
    assert write_csv(tmp_path / "here").read_bytes() == write_csv(tmp_path / "there").read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
@pytest.mark.parametrize(
    ("mood", "limit", "why"),
    [
        ("hang", "minutes = 0.2", "it took longer than sweep.minutes = 0.2"),
        ("eat", "memory = 8.0", "MemoryError"),
        ("die", "", "its process ended with -9"),
    ],
)
def test_a_run_on_ray_fails_at_the_limits_of_the_sweep(tmp_path: Path, mood: str, limit: str, why: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text(
        f'title = "s"\n[data]\nname = "{HERE}:noisy"\n[model]\nname = "mlp"\nwidth = 8\n[federation]\nclients = 4\n'
        f'[[attacks]]\nname = "closed-form-linear"\n[sweep]\nseeds = [1]\n{limit}\n'
    )
    asked = command(path, tmp_path / "out", "--ray", "local", "--jobs", "1", "--trust")
    done = subprocess.run(
        asked, check=False, capture_output=True, text=True, env={**os.environ, "MOOD": mood}, timeout=240
    )
    assert (done.returncode, "0 of 1 runs are finished" in done.stdout) == (1, True)
    assert why in " ".join(done.stderr.split())


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtra, match=r"fedsim-privacy\[flower-sim\]"), open_ray(None):
        pass
