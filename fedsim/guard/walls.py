"""A process for an app of other people: without network, other processes, or files but those that it is given."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fedsim.core import keeper, landlock
from fedsim.core.errors import FedsimError
from fedsim.guard.policy import AppsTable
from fedsim.threat.attacking import confining

_CHILD = "fedsim.guard.child"
_OLDEST = 4  # version of Landlock that closes files and TCP
_ALONE = ("--user", "--map-current-user", "--net", "--ipc", "--pid", "--fork", "--mount-proc", "--kill-child")
_CHOICE = (
    'Run the node on a machine that has them, or write isolation = "none" into [apps]: an app can then do all that '
    "this user may do, as docs/guard.md says"
)


def check_walls(apps: AppsTable) -> None:
    """Refuse a machine that cannot shut apps off as the policy says, or lacks the places that they get.

    Raises:
        FedsimError: the same.
    """
    missing = [path for path in (*apps.readable, *apps.writable) if not path.exists()]
    if missing:
        raise FedsimError(
            f"apps.readable or apps.writable names {missing[0]}, which is not there. Make it, or leave it out."
        )
    if apps.isolation == "none":
        return
    if landlock.version() < _OLDEST:
        raise FedsimError(
            f"apps cannot be shut off from files: this Linux has no Landlock of version {_OLDEST}. {_CHOICE}."
        )
    tried = subprocess.run([*_namespaces(), "true"], capture_output=True, check=False, text=True)
    if tried.returncode:
        raise FedsimError(
            f"apps cannot be shut off from the network: {tried.stderr.strip() or 'unshare failed'}. This needs user "
            f"namespaces. {_CHOICE}."
        )


def command_of(apps: AppsTable, folder: Path) -> list[str]:
    """Return the command of a process that runs an app in a folder, and ends with this process."""
    if apps.isolation == "none":
        return keeper.command_of([sys.executable, "-P", "-m", _CHILD])
    places = confining.places()
    allowed = landlock.Places(
        [*places.readable, *map(str, apps.readable)],
        places.listed,
        places.devices,
        [str(folder), *map(str, apps.writable)],
    )
    return keeper.command_of([*_namespaces(), *landlock.command_of(_CHILD, allowed)])


def environment(folder: Path) -> dict[str, str]:
    """Return the variables of an app's process, whose home is a folder of its own."""
    return {**confining.environment(), **dict.fromkeys(("HOME", "TMPDIR", "FLWR_HOME"), str(folder))}


def _namespaces() -> Sequence[str]:
    program = shutil.which("unshare")
    if program is None:
        raise FedsimError(f"apps cannot be shut off from the network: there is no program unshare. {_CHOICE}.")
    return (program, *_ALONE)
