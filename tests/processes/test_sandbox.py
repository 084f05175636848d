"""What an attack's process gets of this machine: no secrets in variables, and no files but Python's and methods'."""

import os
import subprocess
import sys
import tempfile
import types
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import attacks
import fedsim
from fedsim.core import registry
from fedsim.processes import landlock
from fedsim.processes.sandbox import environment, places


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
    assert {home / "attacks", home / "defenses", Path(os.__file__).resolve()} <= readable
    assert home / "fedsim" in readable or home / "fedsim" / "core" in readable
    assert not readable & {home, tmp_path, Path.cwd(), Path.home(), Path("/"), Path("/etc"), Path("/tmp")}
    listed = {Path(path) for path in found.listable}
    assert {home, tmp_path / "mine", tmp_path / "site"} <= listed
    assert tmp_path / "project" not in listed
    assert "/dev/null" in found.devices


def opened_by(load: str) -> list[str]:
    """Return files of no code that a fresh process opens to load a data set; none where it is not installed."""
    code = (
        "import sys, fedsim.testing\nfrom fedsim.core import registry\nseen = set()\n"
        "def audit(event, arguments):\n"
        "    if event == 'open' and isinstance(arguments[0], str): seen.add(arguments[0])\n"
        f"method = registry.get('dataset', {load!r})\n"
        "sys.addaudithook(audit)\n"
        "try: method.make(method.config())\n"
        "except Exception: seen.clear()\n"
        "print('\\n'.join(seen))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    ours = str(Path(fedsim.__file__).parents[1] / "fedsim")
    return [path for path in found.splitlines() if is_data(path) and not path.startswith(("/proc", "/dev", ours))]


def is_data(path: str) -> bool:
    return Path(path).is_file() and not path.endswith((".py", ".pyc", ".so")) and ".dist-info" not in path


def reads(paths: Sequence[str]) -> list[bool]:
    """Return which files a process with the places of an attack can read."""
    lines = (
        "import sys",
        "from fedsim.processes.landlock import Places, restrict",
        f"restrict(Places(**{asdict(places())!r}))",
        "for path in sys.argv[1:]:",
        "    try: open(path, 'rb').read(1); print(1)",
        "    except OSError: print(0)",
    )
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
        script.write("\n".join(lines))
        script.flush()
        command = [sys.executable, script.name, *paths]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [line == "1" for line in said.split()]


@pytest.mark.skipif(landlock.version() < 1, reason="this machine has no Landlock")
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in registry.methods("dataset")])
def test_the_files_of_a_data_set_cannot_be_read(name: str) -> None:
    """Every registered data set is tried, new ones too; one that is made from code has no files."""
    files = opened_by(name)
    assert not any(reads(files)), files


@pytest.mark.skipif(landlock.version() < 1, reason="this machine has no Landlock")
def test_the_digits_cannot_be_looked_up_and_code_can_be_read() -> None:
    digits = opened_by("digits")
    assert any(path.endswith("digits.csv.gz") for path in digits), "the data set was found: else this proves nothing"
    assert reads([*digits, torch.__file__, os.__file__, attacks.__file__]) == [False] * len(digits) + [True] * 3
