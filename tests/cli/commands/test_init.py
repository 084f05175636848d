"""`fedsim init`: a folder to start from."""

from pathlib import Path

import pytest

from fedsim.core.source import shipped
from fedsim.scenario import load
from tests.cli.typed import Say


def test_an_empty_folder_gets_a_scenario_and_a_template_that_load(
    command: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, told, _ = command("init")
    assert code == 0
    assert "fedsim run quickstart.toml" in told
    assert (tmp_path / "quickstart.toml").read_bytes() == (shipped() / "00_quickstart.toml").read_bytes()
    assert len(load(tmp_path / "scenario.toml").arms["model.dropout"]) == 2


def test_another_scenario_goes_into_a_folder_that_is_made(
    command: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("init", "31_membership", "--to", "mine")[0] == 0
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["membership.toml", "scenario.toml"]


def test_what_is_there_stays_and_nothing_is_written_beside_it(
    command: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scenario.toml").write_text("mine")
    code, _, told = command("init")
    assert code == 2
    assert told == "scenario.toml exists already. Move it away, or choose another folder with --to.\n"
    assert [path.name for path in tmp_path.iterdir()] == ["scenario.toml"]
