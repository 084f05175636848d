"""Work in several processes, which leave Ctrl-C to their parent and end with it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from fedsim.core import process
from fedsim.core.errors import FedsimError

Job = tuple[Callable[..., Any], tuple[Any, ...]]


def results_of(jobs: Sequence[Job], processes: int) -> Iterator[tuple[int, Any]]:
    """Yield each job's place and result, in the order in which they are done.

    Raises:
        FedsimError: a process was killed.
    """
    if processes == 1:
        yield from ((place, function(*arguments)) for place, (function, arguments) in enumerate(jobs))
        return
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, fresh, initializer=_begin, initargs=(os.getpid(),)) as pool:
        waiting = {pool.submit(function, *arguments): place for place, (function, arguments) in enumerate(jobs)}
        try:
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        except BrokenProcessPool as error:
            raise FedsimError("a recording process was killed, perhaps for lack of memory. Try again.") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _begin(parent: int) -> None:
    """Prepare a process that ignores Ctrl-C and ends with its parent."""
    process.prepare()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(AttributeError, OSError, TypeError):  # only Linux has it
        process.follow(parent)
    torch.set_num_threads(1)
