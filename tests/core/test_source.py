"""Scenario files that are none: missing, no regular file, too large."""

import os
from pathlib import Path

import pytest

from fedsim.core.errors import ScenarioError
from fedsim.core.source import read_source


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_bytes(b"title = \xff")
    assert read_source(tmp_path / "s.toml") == b"title = \xff"


def test_what_is_no_scenario_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "good.toml").touch()
    with pytest.raises(ScenarioError, match=r"there is no scenario file .*goood.toml. Did you mean '.*good.toml'"):
        read_source(tmp_path / "goood.toml")
    with pytest.raises(ScenarioError, match="there is no scenario file"):
        read_source(tmp_path / "no" / "folder.toml")
    with pytest.raises(ScenarioError, match="is no regular file"):
        read_source(tmp_path)
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(ScenarioError, match="is no regular file"):
        read_source(tmp_path / "pipe.toml")
    with (tmp_path / "large.toml").open("wb") as file:
        file.truncate((4 << 20) + 1)
    with pytest.raises(ScenarioError, match="has 4,194,305 bytes, expected a scenario of at most 4,194,304"):
        read_source(tmp_path / "large.toml")
    with pytest.raises(ScenarioError, match="cannot read"):
        read_source(tmp_path / "good.toml" / "below")
