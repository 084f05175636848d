"""Run a scenario into a run folder: lock, earlier record, salt, run, page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from fedsim.core.errors import FedsimError
from fedsim.experiment import runner
from fedsim.experiment.isolating import choose_start
from fedsim.experiment.watching import SILENT, Watcher
from fedsim.record import RunRecord
from fedsim.record.atomic_files import io_advice
from fedsim.record.store import RECORD, RunFolder
from fedsim.scenario import Scenario
from fedsim.scenario.user_code import forbid_exit

ExistingRunPolicy = Literal["refuse", "replace", "resume", "retry"]
"""Treatment of an earlier run in the folder. `retry` also replaces a failed run, and an unreadable record, which it
renames to `UNREADABLE`; `resume` and `retry` start a new run if there is none."""
UNREADABLE = f"{RECORD}.corrupted"


def run_into(
    scenario: Scenario,
    path: Path,
    *,
    command: str,
    source: str = "the scenario",
    existing: ExistingRunPolicy = "refuse",
    isolate: bool = False,
    salt: Path | None = None,
    watcher: Watcher = SILENT,
    on_open: Callable[[RunRecord | None], None] = lambda _earlier: None,
    should_stop: Callable[[], bool] = lambda: False,
    write_page: Callable[[Path], object] = lambda _path: None,
) -> RunRecord:
    """Run a scenario, and write record, arrays, weights and page into a folder that is locked meanwhile.

    Args:
        scenario: result of `fedsim.scenario.load`, without a sweep.
        path: folder of the run, created if missing.
        command: command line for the record.
        source: name of the scenario in the error message of user code that ends the process.
        existing: treatment of an earlier run in the folder.
        isolate: run each attack in a subprocess; see `choose_start`.
        salt: file with the salt of the attacks' seeds.
        watcher: receives every round, attack and iteration.
        on_open: receives the record that is resumed, or None, before the run.
        should_stop: polled after every round and iteration; True ends the run with KeyboardInterrupt.
        write_page: writes the page of the finished run; receives `path`.

    Raises:
        FedsimError: the scenario cannot be run as written, another process uses the folder, or it holds something else.
    """
    folder = RunFolder(path)
    with folder.lock():
        earlier = _open(folder, existing)
        on_open(earlier)
        start = choose_start(folder, isolate=isolate, salt=salt)
        with forbid_exit(f"code that {source} names"):
            record = runner.run(
                scenario, folder, watcher, command=command, earlier=earlier, should_stop=should_stop, start=start
            )
        write_page(path)
    return record


def _open(folder: RunFolder, existing: ExistingRunPolicy) -> RunRecord | None:
    """Prepare the folder, and return the record to resume."""
    if existing in ("refuse", "replace"):
        folder.create(overwrite=existing == "replace")
        return None
    try:
        earlier = folder.reopen()
    except FedsimError:
        if existing == "resume":
            raise
        folder.reserve(UNREADABLE)
        with io_advice(folder.path):
            (folder.path / RECORD).replace(folder.path / UNREADABLE)
        earlier = None
    if existing == "retry":
        return None if earlier is None or earlier.status == "failed" else earlier
    if earlier is None:
        folder.create(overwrite=True)
    return earlier
