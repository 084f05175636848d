"""Files that identify the folder of a run, sweep, audit or release check. This module imports no torch."""

from __future__ import annotations

from pathlib import Path

from fedsim.core.errors import FedsimError

RECORD = "record.json"
SWEEP = "sweep.json"
AUDIT = "audit.json"
RELEASE = "release.json"

_PAGES = {AUDIT: "an audit, with the page audit.html", RELEASE: "a release check, with the page release.html"}


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
    held = next((text for name, text in _PAGES.items() if (folder / name).exists()), None)
    instead = "" if held is None else f" It holds {held}."
    raise FedsimError(f"{folder} holds no {RECORD} and no {SWEEP}: not the folder of a run or sweep.{instead}")
