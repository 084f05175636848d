"""Cost of a function call: processor time, and peak memory of the process."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

_Result = TypeVar("_Result")
_FORGET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_PEAK_ONLY = "5"


@dataclass(frozen=True)
class Cost:
    """Cost of a function call.

    Attributes:
        processor_seconds: of all threads of the process.
        peak_memory: peak bytes of the process during the call, including code and data; None if unavailable.
    """

    processor_seconds: float
    peak_memory: int | None


def measure_cost(work: Callable[[], _Result]) -> tuple[_Result, Cost]:
    """Call a function, and return its result and its cost."""
    _forget_peak()
    begin = time.process_time()
    result = work()
    return result, Cost(time.process_time() - begin, _peak())


def _forget_peak() -> None:
    """Reset the peak to the current memory; `getrusage` only reports the peak of the whole process.

    Freed memory that `fedsim.core.process` keeps for reuse would count, so it is returned to the system first.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    with suppress(OSError):
        _FORGET.write_text(_PEAK_ONLY)


def measure_memory() -> int | None:
    """Return the current bytes of this process, including code and data; None if unavailable."""
    return _status("VmRSS:")


def _peak() -> int | None:
    return _status("VmHWM:")


def _status(field: str) -> int | None:
    with suppress(OSError, ValueError, IndexError):
        lines = _STATUS.read_text().splitlines()
        return next((1024 * int(line.split()[1]) for line in lines if line.startswith(field)), None)
    return None
