"""What an attack's process gets of this machine: no secrets in variables, and no files but Python's and methods'."""

import sys
import types
from pathlib import Path

import pytest

import attacks
import fedsim
from fedsim.threat.attacking.confining import environment, places


def test_of_the_variables_only_those_of_python_fedsim_and_arithmetic_travel(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_TOKEN", "AWS_SECRET_ACCESS_KEY", "PYTHONSTARTUP", "OMP_NUM_THREADS", "FEDSIM_CACHE", "LC_ALL"):
        monkeypatch.setenv(name, "1")
    given = environment()
    assert {"OMP_NUM_THREADS", "FEDSIM_CACHE", "LC_ALL", "PYTHONPATH"} <= given.keys()
    assert not {"API_TOKEN", "AWS_SECRET_ACCESS_KEY", "PYTHONSTARTUP"} & given.keys()


def test_packages_and_what_was_imported_are_readable_and_what_lies_beside_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = types.ModuleType("mine")
    mine.__file__ = str(tmp_path / "mine" / "mine.py")
    monkeypatch.setitem(sys.modules, "mine", mine)
    monkeypatch.delitem(sys.modules, "defenses", raising=False)
    monkeypatch.setattr(attacks, "__path__", [*attacks.__path__, str(tmp_path / "project" / "attacks")])
    (tmp_path / "site" / "other-1.dist-info").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    found = places()
    home = Path(fedsim.__file__).parents[1]
    readable = {Path(path) for path in found.readable}
    inside = {path.relative_to(tmp_path) for path in readable if path.is_relative_to(tmp_path)}
    assert inside == {Path("mine/mine.py"), Path("project/attacks"), Path("site/other-1.dist-info")}
    assert {home / "fedsim", home / "attacks", home / "defenses", Path(sys.base_prefix).resolve() / "lib"} <= readable
    assert not readable & {home, tmp_path, Path.cwd(), Path.home(), Path("/"), Path("/etc"), Path("/tmp")}
    listed = {Path(path) for path in found.listed}
    assert {home, tmp_path / "mine", tmp_path / "site"} <= listed
    assert tmp_path / "project" not in listed
    assert "/dev/null" in found.devices
