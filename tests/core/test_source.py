"""Which scenario file a person means, and files that are none: missing, no regular file, too large."""

import os
import re
from pathlib import Path

import pytest

from fedsim.core.errors import ScenarioError
from fedsim.core.source import find_shipped_folder, find_source, list_scenarios, read_source, read_tables, toml


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["00_quickstart", "quickstart"])
def test_a_shipped_scenario_is_found_by_its_name(name: str) -> None:
    assert find_source(Path(name)) == find_shipped_folder() / "00_quickstart.toml"


def test_every_name_without_its_number_means_one_scenario() -> None:
    for name, path in list_scenarios().items():
        assert find_source(Path(re.sub(r"^\d+_", "", name))) == path


def test_a_file_here_comes_before_a_shipped_scenario(tmp_path: Path) -> None:
    (tmp_path / "quickstart").mkdir()
    assert find_source(Path("quickstart")) == find_shipped_folder() / "00_quickstart.toml"
    (tmp_path / "quickstart.toml").touch()
    assert find_source(Path("quickstart")) == Path("quickstart.toml")
    (tmp_path / "plain").touch()
    assert find_source(Path("plain")) == Path("plain")


def test_a_name_that_is_none_is_answered_with_the_nearest() -> None:
    with pytest.raises(ScenarioError, match="unknown scenario 'quickstrat'. Did you mean 'quickstart'"):
        find_source(Path("quickstrat"))


def test_a_path_of_a_checkout_leads_to_the_shipped_scenario() -> None:
    missing = find_source(Path("scenarios/00_quickstart.toml"))
    with pytest.raises(ScenarioError, match="no scenario file .*use 00_quickstart without folder and ending"):
        read_source(missing)


def test_a_folder_names_the_scenarios_that_it_holds(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "b.toml").touch()
    (tmp_path / "mine" / "a.toml").touch()
    with pytest.raises(ScenarioError, match=r"mine is a folder, expected a scenario file .* It holds: a.toml, b.toml."):
        read_source(find_source(Path("mine")))


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_bytes(b"title = \xff")
    assert read_source(tmp_path / "s.toml") == b"title = \xff"


def test_what_is_no_scenario_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "good.toml").touch()
    with pytest.raises(ScenarioError, match=r"no scenario file .*goood.toml. Did you mean '.*good.toml'"):
        read_source(tmp_path / "goood.toml")
    with pytest.raises(ScenarioError, match="no scenario file"):
        read_source(tmp_path / "no" / "folder.toml")
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(ScenarioError, match="is no regular file"):
        read_source(tmp_path / "pipe.toml")
    with (tmp_path / "large.toml").open("wb") as file:
        file.truncate((4 << 20) + 1)
    with pytest.raises(ScenarioError, match="large.toml is too large, expected a scenario of at most 4,194,304 bytes"):
        read_source(tmp_path / "large.toml")
    with pytest.raises(ScenarioError, match="cannot read"):
        read_source(tmp_path / "good.toml" / "below")


def test_a_file_of_the_largest_size_is_read(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_bytes(b" " * (4 << 20))
    assert len(read_source(tmp_path / "s.toml")) == 4 << 20


def test_a_pipe_that_replaces_the_file_between_check_and_opening_does_not_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, as_file = tmp_path / "s.toml", Path.stat
    os.mkfifo(path)
    (tmp_path / "other").touch()
    about = as_file(tmp_path / "other")
    monkeypatch.setattr(Path, "stat", lambda self, **_: about if self == path else as_file(self))
    with pytest.raises(ScenarioError, match="is no regular file"):
        read_source(path)


def test_a_key_without_a_value_is_left_out_of_toml(tmp_path: Path) -> None:
    path = tmp_path / "written.toml"
    path.write_text(toml({"a": None, "b": {"c": None, "d": [1, None, 2.5]}, "e": ({"f": None, "g": "x"},)}))
    assert read_tables(path) == {"b": {"d": [1, 2.5]}, "e": [{"g": "x"}]}
