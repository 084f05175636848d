"""`fedsim sweep`, as a person uses it: in a process of its own."""

import json
from pathlib import Path

from fedsim.experiment.expectation import Expected, read_expected, write_expected
from tests.cli.commands.conftest import SWEEP
from tests.cli.typed import Say, fedsim
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


def test_a_sweep_is_compared_with_what_its_scenario_expects(command: Say, swept: Path, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(SWEEP)
    code, _, said = command("sweep", str(tmp_path / "s.toml"), "--out", str(swept / "s"), "--check")
    assert (code, "to compare with" in said) == (2, True)
    assert command("expect", str(swept / "s"), str(tmp_path / "s.toml"))[0] == 0
    expected = read_expected(tmp_path / "s.toml")
    assert {figure.arm for figure in expected.figures} == {"defense none", "defense noise"}
    code, told, said = command("sweep", str(tmp_path / "s.toml"), "--out", str(swept / "s"), "--check")
    assert (code, said) == (0, "")
    assert "are as expected" in told
    wrong = [
        own.model_copy(update={"value": own.value + 100}) for own in expected.figures if own.metric == "psnr_median"
    ]
    write_expected(Expected(figures=tuple(wrong)), tmp_path / "s.toml")
    code, _, said = command("sweep", str(tmp_path / "s.toml"), "--out", str(swept / "s"), "--check")
    assert code == 1
    assert "Departs: defense none, closed-form-linear, psnr_median is" in said
