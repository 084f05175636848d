"""Isolation of a run's attacks in subprocesses, and the secret salt of their seeds."""

from __future__ import annotations

import secrets
from pathlib import Path

from fedsim.core.errors import FedsimError
from fedsim.processes import landlock
from fedsim.processes.methods import Start, start_in_process
from fedsim.processes.salt import SaltedStart
from fedsim.processes.subprocess_runner import start_in_subprocess
from fedsim.record.store import SALT, SALT_BYTES, RunFolder, read_salt


def describe_open() -> str:
    """Return a sentence on missing restrictions of isolated attacks on this machine, '' with a recent Landlock."""
    gaps = landlock.describe_gaps(landlock.version())
    if not gaps:
        return ""
    return f"This machine has no recent Landlock (Linux 6.12): isolated attacks are not kept from {gaps}."


def choose_start(folder: RunFolder, *, isolate: bool, salt: Path | None) -> Start:
    """Return the starter of a run's attacks, and store the salt of their seeds in the run folder.

    Args:
        folder: run folder; the salt of an interrupted run is reused.
        isolate: whether each attack runs in a subprocess. This requires a salt: a new one is drawn if none is given.
        salt: file with a salt, as an earlier run left it in its folder.

    Raises:
        FedsimError: the file contains no salt, or the folder contains another salt.
    """
    kept = read_salt(folder.path / SALT) if (folder.path / SALT).exists() else None
    given = read_salt(salt) if salt is not None else None
    if kept is not None and given not in (None, kept):
        raise FedsimError(
            f"{folder.path} holds a run with another salt than {salt}. Leave out --salt to go on with it."
        )
    chosen = kept or given or (secrets.token_bytes(SALT_BYTES) if isolate else None)
    start = start_in_subprocess if isolate else start_in_process
    if chosen is None:
        return start
    folder.write_salt(chosen)
    return SaltedStart(start, chosen)
