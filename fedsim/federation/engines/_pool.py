"""Client calls in worker processes, with replies in order."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from typing import TYPE_CHECKING

from flwr.app import Context, Message, RecordDict

from fedsim.core import process
from fedsim.core.errors import FedsimError
from fedsim.core.foreign.flower.in_process import TaskIdentity

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp

RUN_ID = 1
_AHEAD = 2


class Pool:
    """Worker processes, started at the first call and kept until `close`."""

    def __init__(self, workers: int) -> None:
        """Set the number of workers, without starting them."""
        self.workers = workers
        self._executor: ProcessPoolExecutor | None = None

    def answers(self, calls: Iterable[tuple[Message, Context]]) -> Iterator[tuple[Message, int, RecordDict]]:
        """Yield reply, node id and new state of every call, in order, with few calls in progress at a time.

        Raises:
            FedsimError: a worker died.
        """
        under_way: deque[tuple[int, Future[tuple[Message, RecordDict]]]] = deque()
        for message, context in calls:
            if self._executor is None:
                fresh = multiprocessing.get_context("spawn")
                self._executor = ProcessPoolExecutor(
                    self.workers, fresh, initializer=process.prepare_to_follow, initargs=(os.getpid(),)
                )
            under_way.append((context.node_id, self._executor.submit(_work, message, context)))
            if len(under_way) >= _AHEAD * self.workers:
                yield _first(under_way)
        while under_way:
            yield _first(under_way)

    def close(self) -> None:
        """End the workers."""
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)


def _first(under_way: deque[tuple[int, Future[tuple[Message, RecordDict]]]]) -> tuple[Message, int, RecordDict]:
    node, future = under_way.popleft()
    try:
        reply, state = future.result()
    except BrokenProcessPool as error:
        raise FedsimError(
            "a worker process ended before it answered, perhaps for lack of memory. Set federation.workers = 1."
        ) from error
    return reply, node, state


def _work(message: Message, context: Context) -> tuple[Message, RecordDict]:
    return _app()(message, context), context.state


@cache
def _app() -> ClientApp:
    from fedsim.federation.engines.worker import WorkerApp  # noqa: PLC0415 - imports torch, after the process is set up

    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = RUN_ID
    return WorkerApp()
