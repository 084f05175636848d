"""A process in the sandbox changes its folder and writable folders alone, and no metadata of other files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fedsim.guard import app_command, sandbox
from fedsim.processes import sandbox as confining
from fedsim.processes.landlock import Places
from tests.guard.site import needs_walls

PROBE = """
import json, os

def tried(deed, *arguments):
    try:
        deed(*arguments)
    except OSError as error:
        return error.strerror
    return "done"

def changes(path):
    return {
        "mode": tried(os.chmod, path, 0o700),
        "owner": tried(os.chown, path, os.getuid(), -1),
        "times": tried(os.utime, path),
        "attribute": tried(os.setxattr, path, "user.mark", b"1"),
    }

def make_files():
    for number in range(20_000):
        os.mkdir(str(number))

status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
report = {path: changes(path) for path in json.loads(os.environ["PLACES"])}
report["folder"], report["held"] = os.getcwd(), os.listdir(".")
report["capabilities"] = [int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")]
open("own", "w").close()
report["own"] = changes("own")
report["room"] = tried(make_files)
report["made"] = len(os.listdir("."))
print(json.dumps(report))
"""


def probed(folder: Path, paths: list[Path], writable: list[Path]) -> Mapping[str, Any]:
    """Return what a process in the sandbox could do to these paths."""
    modules, own = folder / "modules", folder / "own"
    modules.mkdir()
    own.mkdir()
    (modules / "probe.py").write_text(PROBE)
    places = confining.places()
    allowed = Places([*places.readable, str(modules)], places.listable, places.devices, [*map(str, writable)])
    command = [*app_command._namespaces(), *sandbox.command_of("probe", str(own), allowed)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(modules), *sys.path]),
        "PLACES": json.dumps([*map(str, paths)]),
    }
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


@needs_walls
def test_metadata_of_everything_but_its_own_and_writable_folders_is_out_of_reach(tmp_path: Path) -> None:
    ledger, cache = tmp_path / "ledger", tmp_path / "cache"
    cache.mkdir()
    (cache / "file").touch()
    ledger.touch(0o644)
    before = ledger.stat()
    report = probed(tmp_path, [ledger, tmp_path, cache, cache / "file"], [cache])
    for path in (ledger, tmp_path):
        assert set(report[str(path)].values()) == {"Read-only file system"}
    for path in (cache, cache / "file"):
        assert (report[str(path)]["mode"], report[str(path)]["times"]) == ("done", "done")
    assert (report["own"]["mode"], report["own"]["times"]) == ("done", "done")
    assert ledger.stat() == before
    assert (cache / "file").stat().st_mode & 0o777 == 0o700
    assert report["capabilities"] == [0, 0, 0, 0]


@needs_walls
def test_its_folder_is_empty_has_limits_and_leaves_nothing(tmp_path: Path) -> None:
    report = probed(tmp_path, [], [])
    assert (report["folder"], report["held"]) == (str(tmp_path / "own"), [])
    assert report["room"] == "No space left on device"
    assert sandbox._MOST_FILES - 5 <= report["made"] <= sandbox._MOST_FILES
    assert list((tmp_path / "own").iterdir()) == []


@needs_walls
def test_a_writable_folder_that_is_missing_runs_nothing(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        probed(tmp_path, [], [tmp_path / "missing"])


def test_it_changes_no_mounts_outside_of_its_namespaces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_arguments: Any, **_options: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(sandbox, "_set_read_only", refuse)
    monkeypatch.setattr(sandbox, "_mount", refuse)
    with pytest.raises(RuntimeError, match="first process of its namespaces"):
        sandbox.restrict(str(tmp_path), Places([], [], []))
