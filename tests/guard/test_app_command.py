"""A machine without walls is refused unless the policy does without them, and an app gets no variables of the site."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fedsim.core.errors import FedsimError
from fedsim.guard import app_command, sandbox
from fedsim.guard.policy import AppsTable
from fedsim.processes import landlock

SANDBOX, NONE = AppsTable(sha256="any"), AppsTable(sha256="any", isolation="none")


def test_a_machine_without_landlock_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "version", lambda: 3)
    with pytest.raises(FedsimError, match='no Landlock of version 4.*isolation = "none"'):
        app_command.check_sandbox(SANDBOX)
    app_command.check_sandbox(NONE)


@pytest.mark.parametrize(
    ("program", "words"), [(None, "program unshare is missing"), (shutil.which("false"), "unshare failed")]
)
def test_a_machine_without_namespaces_is_refused(
    monkeypatch: pytest.MonkeyPatch, program: str | None, words: str
) -> None:
    monkeypatch.setattr(landlock, "version", lambda: 6)
    monkeypatch.setattr(shutil, "which", lambda _name: program)
    with pytest.raises(FedsimError, match=words):
        app_command.check_sandbox(SANDBOX)


def test_a_place_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(FedsimError, match=f"names {tmp_path}/data, which does not exist"):
        app_command.check_sandbox(NONE.model_copy(update={"readable": (tmp_path / "data",)}))


def test_an_app_may_write_its_folder_and_what_the_policy_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: "/usr/bin/unshare")
    given: list[landlock.Places] = []
    folders: list[str] = []
    monkeypatch.setattr(
        sandbox,
        "command_of",
        lambda _module, folder, places: folders.append(folder) or given.append(places) or ["child"],
    )
    apps = AppsTable(sha256="any", readable=(tmp_path / "data",), writable=(tmp_path / "cache",))
    command = app_command.command_of(apps, tmp_path / "folder")
    assert command[-1] == "child"
    assert "--net" in command
    (places,) = given
    assert folders == [str(tmp_path / "folder")]
    assert places.writable == [str(tmp_path / "cache")]
    assert str(tmp_path / "data") in places.readable
    assert "--net" not in app_command.command_of(NONE, tmp_path)


def test_an_app_gets_a_home_of_its_own_and_no_secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SITE_PASSWORD", "secret")
    given = app_command.environment(tmp_path)
    assert {given[name] for name in ("HOME", "TMPDIR", "FLWR_HOME")} == {str(tmp_path)}
    assert "SITE_PASSWORD" not in given
