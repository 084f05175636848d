"""A Ray cluster makes the same bytes."""

import importlib.util
import subprocess
from pathlib import Path

import pytest

from fedsim.core.errors import MissingExtra
from fedsim.experiment.sweep.executors.ray import on_ray
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


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtra, match=r"fedsim-privacy\[flower-sim\]"), on_ray(None):
        pass
