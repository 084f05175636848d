"""What a piece of work takes: processor time, and the most memory that the process held meanwhile."""

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
    """What a piece of work took.

    Attributes:
        processor_seconds: of all threads of the process.
        peak_memory: bytes that the process held at most meanwhile, programs and data included; None where the system
            does not say.
    """

    processor_seconds: float
    peak_memory: int | None


def measure_cost(work: Callable[[], _Result]) -> tuple[_Result, Cost]:
    """Do a piece of work, and return what came of it and what it took."""
    _forget_peak()
    begin = time.process_time()
    result = work()
    return result, Cost(time.process_time() - begin, _peak())


def _forget_peak() -> None:
    """Let the peak begin again at what is held now; `getrusage` alone tells that of the whole life of a worker.

    Memory that was freed and kept for reuse, as `fedsim.core.process` has it, would count: it is given back first.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    with suppress(OSError):
        _FORGET.write_text(_PEAK_ONLY)


def measure_memory() -> int | None:
    """Return the bytes that this process holds now, programs and data included; None where the system does not say."""
    return _status("VmRSS:")


def _peak() -> int | None:
    return _status("VmHWM:")


def _status(field: str) -> int | None:
    with suppress(OSError, ValueError, IndexError):
        lines = _STATUS.read_text().splitlines()
        return next((1024 * int(line.split()[1]) for line in lines if line.startswith(field)), None)
    return None
