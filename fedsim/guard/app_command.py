"""Command of a third-party app's process: no network, no other processes, and only the given files."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fedsim.core import process
from fedsim.core.errors import FedsimError
from fedsim.guard import sandbox
from fedsim.guard.policy import AppsTable
from fedsim.processes import landlock
from fedsim.processes import sandbox as confining

_CHILD = "fedsim.guard.child"
_OLDEST = 4  # version of Landlock that closes files and TCP
_NOTHING = "__future__"  # a module of Python that does nothing
_ALONE = (
    *("--user", "--map-current-user", "--keep-caps", "--net", "--ipc", "--pid", "--fork"),
    *("--mount-proc", "--kill-child"),
)
_CHOICE = (
    'Run the node on a machine that has them, or write isolation = "none" into [apps]: an app can then do all that '
    "this user may do, as docs/guard.md says"
)


def check_sandbox(apps: AppsTable) -> None:
    """Refuse a machine that cannot shut apps off as the policy says, or lacks the places that they get.

    Raises:
        FedsimError: the same.
    """
    missing = [path for path in (*apps.readable, *apps.writable) if not path.exists()]
    if missing:
        raise FedsimError(
            f"apps.readable or apps.writable names {missing[0]}, which does not exist. Create "
            "it, or remove it from the list."
        )
    if apps.isolation == "none":
        return
    if landlock.version() < _OLDEST:
        raise FedsimError(
            f"apps cannot be shut off from files: this Linux has no Landlock of version {_OLDEST}. {_CHOICE}."
        )
    with tempfile.TemporaryDirectory() as folder:
        command = [*_namespaces(), *sandbox.command_of(_NOTHING, folder, confining.places())]
        tried = subprocess.run(command, capture_output=True, check=False, text=True)
    if tried.returncode:
        why = tried.stderr.strip().rpartition("\n")[2] or "unshare failed"
        raise FedsimError(
            f"apps cannot be shut off from the network and from files: {why}. This needs user namespaces, and an "
            f"unshare that has --keep-caps. {_CHOICE}."
        )


def command_of(apps: AppsTable, folder: Path) -> list[str]:
    """Return the command of a process that runs an app in a folder."""
    if apps.isolation == "none":
        return process.command_of(_CHILD)
    places = confining.places()
    allowed = landlock.Places(
        [*places.readable, *map(str, apps.readable)], places.listable, places.devices, [*map(str, apps.writable)]
    )
    return [*_namespaces(), *sandbox.command_of(_CHILD, str(folder), allowed)]


def environment(folder: Path) -> dict[str, str]:
    """Return the environment variables of an app's process; its home is its own folder."""
    return {**confining.environment(), **dict.fromkeys(("HOME", "TMPDIR", "FLWR_HOME"), str(folder))}


def _namespaces() -> Sequence[str]:
    program = shutil.which("unshare")
    if program is None:
        raise FedsimError(f"apps cannot be isolated from the network: program unshare is missing. {_CHOICE}.")
    return (program, *_ALONE)
