"""Parent process of an audit: the user's code runs in a child process; the time limit and the final files live here.

The minutes of an audit are processor time of the child, so a busy machine changes no verdict. A wall-clock limit of
`WALL_LIMIT` times as long ends a child that waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fedsim.audit import image_grids, page, sheet, tables
from fedsim.audit.record import PAGE, AuditPlan, AuditRecord
from fedsim.core.errors import FedsimError
from fedsim.core.process import command_of
from fedsim.core.result_files import AUDIT
from fedsim.core.time_budget import TimeBudget
from fedsim.judgement.policy import Policy
from fedsim.processes.child_process import FAREWELL, ChannelClosed, ChildProcess
from fedsim.processes.frames import FrameError, json_frame
from fedsim.record.atomic_files import open_log, remove_temporary_files
from fedsim.record.store import RunFolder, read_record
from fedsim.report.document.html import to_html
from fedsim.report.document.markdown import to_markdown

LOG = "audit.log"
EVIDENCE, CARD = "evidence.html", "model-card.md"
_FOR_THE_PAGE = 0.05  # share of the time for the page, and its limit in seconds
_MOST_FOR_THE_PAGE = 8.0
_TO_LOAD = 0.5  # share of the time for the factory and its loader
_FOR_THE_CHILD = 0.96  # share of the time for the child; the parent kills it only if it hangs
_TICK = 0.5
_MOST_MESSAGE = 1 << 20  # bytes
_MOST_FOR_IMPORTS = 300.0  # seconds; a module that needs longer hangs or trains during its import

OnProgress = Callable[[str, float], None]  # progress message and seconds left


def run(
    plan: AuditPlan, policy: Policy, folder: Path, on_progress: OnProgress = lambda _what, _left: None
) -> AuditRecord:
    """Audit the plan's target in a child process and write page and tables; the plan's minutes start after the imports.

    Raises:
        FedsimError: the user's code cannot be imported, raises, hangs, or exceeds its memory; the folder holds foreign
            files, is locked by another audit, or cannot be written.
    """
    with RunFolder(folder, AUDIT).renew():
        return _run(plan, policy, folder, on_progress)


def _run(plan: AuditPlan, policy: Policy, folder: Path, on_progress: OnProgress) -> AuditRecord:
    total = 60.0 * plan.minutes
    seconds = total - min(_FOR_THE_PAGE * total, _MOST_FOR_THE_PAGE)
    with _start_child(plan, folder) as child:
        order = {
            "plan": plan.model_dump(mode="json"),
            "policy": policy.model_dump(mode="json"),
            "folder": str(folder.resolve()),
            "seconds": _FOR_THE_CHILD * seconds,
        }
        child.send(json_frame(order))
        said = _ChildOutput(child)
        _await_import(said, plan, seconds, on_progress)
        begin = time.monotonic()
        is_whole = _follow_child(said, plan, folder, seconds, on_progress)
    remove_temporary_files(folder)  # temporary file of a write that the child did not complete
    record = read_record(folder, AuditRecord)
    if not is_whole:
        record = record.model_copy(update={"status": "out of time"})
    on_progress("writes the page", total - seconds)
    return write_results(record.model_copy(update={"seconds": time.monotonic() - begin}), folder)


def write_results(record: AuditRecord, path: Path) -> AuditRecord:
    """Write record, page, tables, evidence sheet and model-card section, and return the record."""
    folder = RunFolder(path, AUDIT)
    folder.write_record(record)
    tables.write(record, folder)
    audited = page.build(record, image_grids.read(path))
    for picture in audited.pictures:
        folder.write(f"{picture.name}.png", picture.png)
    folder.write(PAGE, to_html(audited).encode())
    evidence = sheet.build(record)
    folder.write(EVIDENCE, to_html(evidence).encode())
    folder.write(CARD, to_markdown(evidence, depth=2).encode())
    return record


def _await_import(said: _ChildOutput, plan: AuditPlan, seconds: float, on_progress: OnProgress) -> None:
    """Wait until the child has imported the target's module; imports do not count as the audit's time.

    Raises:
        FedsimError: the import exceeds its limit, or fails.
    """
    for message in said.until(TimeBudget(wall=_MOST_FOR_IMPORTS)):
        on_progress(message, seconds)
        if message.startswith("calls"):
            return
    if said.is_silent:
        raise FedsimError(
            f"'{plan.target}' was not imported within {_MOST_FOR_IMPORTS:.0f} s. Let its module import and do less."
        )


def _follow_child(said: _ChildOutput, plan: AuditPlan, folder: Path, seconds: float, on_progress: OnProgress) -> bool:
    """Follow the child until it ends or the time is over; return whether it finished the audit."""
    budget = said.budget(seconds)

    def followed(deadline: TimeBudget, last: str) -> bool:
        """Pass progress on while `deadline` lasts; return whether a message began with `last` before its end."""
        for message in said.until(deadline):
            on_progress(message, budget.remaining_seconds)
            if message.startswith(last):
                return True
        return False

    limit = _TO_LOAD * seconds  # of the wall clock: a loader that waits for ever uses no processor
    if not followed(TimeBudget(wall=limit), "loaded") and said.is_silent:
        raise FedsimError(
            f"'{plan.target}' and its loader did not return within {limit:.0f} s, half of --minutes. Let it return "
            "faster, or give it more minutes."
        )
    followed(budget, "done")
    if said.is_done:
        return True
    log = folder / LOG
    if said.crash:
        raise FedsimError(f"the audit of '{plan.target}' failed: {said.crash}. {log} holds its output.")
    if not said.is_silent:
        raise FedsimError(
            f"the process that ran '{plan.target}' ended with {said.code}, perhaps for lack of memory; {log} "
            "holds its output."
        )
    if not (folder / AUDIT).exists():
        raise FedsimError(
            f"nothing was found within --minutes {plan.minutes:g}: '{plan.target}' loaded too slowly, or no attack "
            "ended. Give it more minutes, or a smaller --batch-sizes."
        )
    return False


class _ChildOutput:
    """Reader of a child's messages."""

    def __init__(self, child: ChildProcess) -> None:
        self._child = child
        self._what = "starts"
        self.is_done = False
        self.crash = ""

    @property
    def code(self) -> int | None:
        """The child's exit code; None while it runs."""
        return self._child.code

    @property
    def is_silent(self) -> bool:
        """Whether the child still runs and has not reported its end."""
        return not self.is_done and not self.crash and self._child.code is None

    def budget(self, seconds: float) -> TimeBudget:
        """Return a budget of the child's processor seconds, with its wall-clock limit."""
        return TimeBudget.with_wall_limit(seconds, self._child.pid)

    def until(self, budget: TimeBudget) -> Iterator[str]:
        """Yield progress, twice a second and for every message, until the child ends or the budget is used up.

        Raises:
            FedsimError: the child reports a user error.
        """
        while not self.is_done and not self.crash and (left := budget.remaining_seconds) > 0:
            try:
                message = self._child.receive(_MOST_MESSAGE, min(_TICK, left))
                if message is not None:
                    self._understood(message.json())
            except ChannelClosed:
                self._child.wait(FAREWELL)
                return
            except FrameError as error:
                self.crash = f"its process sent {error}"
            yield self._what

    def _understood(self, message: dict[str, str]) -> None:
        if "mistake" in message:
            raise FedsimError(message["mistake"])
        self.is_done = "done" in message
        self.crash = message.get("crash", "")
        self._what = message.get("doing", self._what)


def _start_child(plan: AuditPlan, folder: Path) -> ChildProcess:
    RunFolder(folder, AUDIT).reserve(LOG)
    with open_log(folder / LOG) as log:
        return ChildProcess(command_of("fedsim.audit.child", str(plan.memory)), stderr=log)
