"""What a process that is shut off can still do; each deed is tried by a process that was."""

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedsim.processes import landlock
from fedsim.processes.landlock import Places, describe_gaps

ROOT = Path(__file__).parents[2]
DEEDS = """
import json, os, signal, socket, sys
from fedsim.processes.landlock import Places, restrict
restrict(Places(**json.loads(sys.argv[1])))
def tried(deed):
    try:
        deed()
    except OSError as error:
        return type(error).__name__
    return "done"
folder, parent = sys.argv[2], os.getppid()
listener = socket.socket()
print(json.dumps({
    "read granted": tried(lambda: open(f"{folder}/granted/file").read()),
    "list granted": tried(lambda: os.listdir(f"{folder}/granted")),
    "write granted": tried(lambda: open(f"{folder}/granted/new", "w")),
    "write writable": tried(lambda: open(f"{folder}/writable/new", "w").write("x")),
    "make in writable": tried(lambda: os.mkdir(f"{folder}/writable/inner")),
    "remove in writable": tried(lambda: os.unlink(f"{folder}/writable/file")),
    "truncate a writable file": tried(lambda: os.truncate(f"{folder}/file", 0)),
    "read listed": tried(lambda: open(f"{folder}/listed/file").read()),
    "list listed": tried(lambda: os.listdir(f"{folder}/listed")),
    "read other": tried(lambda: open(f"{folder}/other/file").read()),
    "list other": tried(lambda: os.listdir(f"{folder}/other")),
    "remove": tried(lambda: os.unlink(f"{folder}/other/file")),
    "truncate": tried(lambda: os.truncate(f"{folder}/other/file", 0)),
    "write null": tried(lambda: open("/dev/null", "w").write("x")),
    "memory of the parent": tried(lambda: open(f"/proc/{parent}/mem", "rb")),
    "environment of the parent": tried(lambda: open(f"/proc/{parent}/environ", "rb")),
    "signal the parent": tried(lambda: os.kill(parent, 0)),
    "bind": tried(lambda: listener.bind(("127.0.0.1", 0))),
    "connect": tried(lambda: socket.create_connection(("127.0.0.1", 9), 1)),
    "run a program": tried(lambda: os.execv("/bin/true", ["true"])),
}))
"""
needs = pytest.mark.skipif(landlock.version() < 6, reason="this machine's Landlock is older than version 6")


@needs
def test_a_process_that_is_shut_off_reads_what_is_granted_and_reaches_nothing_else(tmp_path: Path) -> None:
    for name in ("granted", "listed", "other", "writable"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("secret")
    (tmp_path / "file").write_text("whatever")
    places = {
        "readable": [str(tmp_path / "granted"), "/nowhere"],
        "listable": [str(tmp_path / "listed")],
        "devices": ["/dev/null"],
        "writable": [str(tmp_path / "writable"), str(tmp_path / "file")],
    }
    done = subprocess.run(
        [sys.executable, "-c", DEEDS, json.dumps(places), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
        text=True,
    )
    found = json.loads(done.stdout)
    allowed = (
        *("read granted", "list granted", "list listed", "write null", "truncate a writable file"),
        *("write writable", "make in writable", "remove in writable"),
    )
    assert {name for name, how in found.items() if how == "done"} == set(allowed)
    assert set(found.values()) == {"done", "PermissionError"}
    assert (tmp_path / "other" / "file").read_text() == "secret"


@needs
def test_a_module_runs_after_its_process_is_shut_off(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text("import sys\nprint(sys.argv)\nopen('/etc/hostname')\n")
    readable = [str(tmp_path), str(ROOT / "fedsim"), *map(str, {sys.prefix, sys.base_prefix})]
    command = landlock.command_of("late", Places(readable, [], []))
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    done = subprocess.run(command, env=environment, capture_output=True, check=False, text=True)
    assert done.stdout == f"['{tmp_path}/late.py']\n"
    assert "PermissionError" in done.stderr


@pytest.mark.parametrize(
    ("known", "gaps"),
    [
        (0, "files, the network, and other processes of the same user"),
        (3, "connections by TCP and signals to other processes"),
        (5, "signals to other processes"),
        (6, ""),
        (7, ""),
    ],
)
def test_what_an_older_landlock_leaves_open_is_said(known: int, gaps: str) -> None:
    assert describe_gaps(known) == gaps


def test_where_there_is_no_landlock_nothing_is_shut_and_nothing_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoLandlock:
        def syscall(self, *_: object) -> int:
            ctypes.set_errno(38)
            return -1

    monkeypatch.setattr(landlock, "_libc", NoLandlock)
    assert landlock.version() == 0
    landlock.restrict(Places(["/"], [], []))
