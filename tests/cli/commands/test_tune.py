"""`fedsim tune`, as a person uses it."""

import json
from dataclasses import replace
from pathlib import Path

from fedsim.cli.commands.tune import _price
from fedsim.experiment.sweep.tuning import Tuned
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
    assert (
        (tmp_path / "out" / "tuned.csv")
        .read_text()
        .startswith("arm,settings,metric,score,default,trials,failed,epsilon,delta,epsilon_of_choice\n")
    )


def test_the_price_of_the_choice_stands_beside_that_of_one_training() -> None:
    one = Tuned("all", {"learning_rate": 0.1}, "SSIM", 0.5, None, None, None, 1.9931, 1e-5, 4.3155)
    assert _price(one) == (
        "; a single training has epsilon 1.993 at delta 1e-05, and the best of a number that was drawn "
        "4.316, while that number and the other trials stay secret"
    )
    assert _price(replace(one, epsilon_of_choice=None)) == "; a single training has epsilon 1.993 at delta 1e-05"
    assert _price(replace(one, epsilon=None)) == ""
