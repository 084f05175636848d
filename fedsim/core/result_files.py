"""Files that identify the folder of a run, sweep, audit or release check. This module imports no torch."""

from __future__ import annotations

from pathlib import Path

from fedsim.core.errors import FedsimError

RECORD = "record.json"
SWEEP = "sweep.json"
AUDIT = "audit.json"
RELEASE = "release.json"

CONTENTS = {RECORD: "a run", AUDIT: "an audit", RELEASE: "a release check", SWEEP: "a sweep"}
"""Content of a folder, by the name of the file that identifies it."""


def check_run_or_sweep(folder: Path) -> None:
    """Check that a folder holds a run or a sweep, before slow imports.

    Raises:
        FedsimError: there is no such folder, or it holds neither.
    """
    if not folder.exists():
        raise FedsimError(f"there is no folder {folder}.")
    if not folder.is_dir():
        raise FedsimError(f"{folder} is no folder, expected the folder of a run or sweep.")
    if (folder / RECORD).exists() or (folder / SWEEP).exists():
        return
    held = next((name for name in (AUDIT, RELEASE) if (folder / name).exists()), None)
    instead = "" if held is None else f" It holds {CONTENTS[held]}, with the page {Path(held).with_suffix('.html')}."
    raise FedsimError(f"{folder} holds no {RECORD} and no {SWEEP}: not the folder of a run or sweep.{instead}")
