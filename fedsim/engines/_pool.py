"""Client calls in worker processes, replies in order."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from fedsim import process
from fedsim.errors import FedsimError, told

RUN_ID = 1
_CLIENT_FAILED = 2
_AHEAD = 2


def answered(app: ClientApp, message: Message, context: Context) -> tuple[Message, RecordDict | None]:
    """Return a client's reply and its new state; an error reply and no state when it raised."""
    try:
        return app(message=message, context=context), context.state
    except Exception as error:
        return Message(Error(code=_CLIENT_FAILED, reason=told(error)), reply_to=message), None


class Pool:
    """Worker processes that start with the first call and stay until `close`."""

    def __init__(self, workers: int) -> None:
        """Name the number of workers; nothing starts."""
        self.workers = workers
        self._executor: ProcessPoolExecutor | None = None

    def answers(self, calls: Iterable[tuple[Message, Context]]) -> Iterator[tuple[Message, int, RecordDict | None]]:
        """Yield reply, node and new state of every call, in order; few calls are under way at a time.

        Raises:
            FedsimError: a worker died.
        """
        under_way: deque[tuple[int, Future[tuple[Message, RecordDict | None]]]] = deque()
        for message, context in calls:
            if self._executor is None:
                fresh = multiprocessing.get_context("spawn")
                self._executor = ProcessPoolExecutor(self.workers, fresh, initializer=process.prepare)
            under_way.append((context.node_id, self._executor.submit(_work, message, context)))
            if len(under_way) >= _AHEAD * self.workers:
                yield self._first(under_way)
        while under_way:
            yield self._first(under_way)

    def close(self) -> None:
        """End the workers."""
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def _first(
        self, under_way: deque[tuple[int, Future[tuple[Message, RecordDict | None]]]]
    ) -> tuple[Message, int, RecordDict | None]:
        node, future = under_way.popleft()
        try:
            return future.result()[0], node, future.result()[1]
        except BrokenProcessPool as error:
            raise FedsimError(
                "a worker process ended before it answered, perhaps for lack of memory. Set federation.workers = 1."
            ) from error


def _work(message: Message, context: Context) -> tuple[Message, RecordDict | None]:
    return answered(_app(), message, context)


@cache
def _app() -> ClientApp:
    import torch  # noqa: PLC0415 - once the process has its settings
    from flwr.supercore.task_identity import TaskIdentity  # noqa: PLC0415

    from fedsim import apps  # noqa: PLC0415

    torch.set_num_threads(1)
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = RUN_ID
    return apps.client_app()
