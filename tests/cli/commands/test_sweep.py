"""`fedsim sweep`, as a person uses it: in a process of its own."""

import json
from pathlib import Path

from tests.cli.typed import fedsim
from tests.experiment.sweep.sweeping import HERE


def test_the_command_line_says_what_failed_and_refuses_a_plain_run(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(f'title = "s"\n[data]\nname = "{HERE}:moody"\n[model]\nname = "mlp"\n[sweep]\nseeds = [1]\n')
    done = fedsim("sweep", "s.toml", "--out", "out", cwd=tmp_path)
    assert done.returncode == 1
    assert "not in the mood" in done.stderr
    assert "0 of 1 runs are finished" in done.stdout
    refused = fedsim("run", "s.toml", cwd=tmp_path)
    assert refused.returncode == 2
    assert "Use: fedsim sweep s.toml" in refused.stderr.replace("\n", " ")
    assert json.loads((tmp_path / "out" / "sweep.json").read_text())["title"] == "s"
