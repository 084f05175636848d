"""`fedsim tune`, as a person uses it."""

import json
from pathlib import Path

from tests.cli.typed import fedsim


def test_the_command_writes_what_it_found(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(
        'title = "s"\n[data]\nname = "digits"\n[model]\nname = "mlp"\nwidth = 8\ndepth = 1\n[[attacks]]\n'
        'name = "inverting-gradients"\nmax_iterations = 5\n[tune]\nattack = "inverting-gradients"\ntrials = 2\n'
        "[tune.space]\nlearning_rate = [0.01, 0.1]\n"
    )
    done = fedsim("tune", "s.toml", "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "trial 2 of 2" in done.stdout
    (found,) = json.loads((tmp_path / "out" / "tuned.json").read_text())
    assert found["trials"] == 2
    assert (tmp_path / "out" / "tuned.csv").read_text().startswith("arm,settings,metric,score,default,trials,failed\n")
