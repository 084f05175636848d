"""Changes of the process that a run needs and its host does not: made for a block, and undone behind it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fedsim.core.process import ENVIRONMENT

_KEPT_BY_LIBRARIES = ("HF_HUB_OFFLINE",)  # huggingface_hub keeps the value that it finds when it is imported
Undo = Callable[[], None]


class SharedChange:
    """A change of the process that several blocks share, also in several threads.

    The first block to begin makes it, and the last one to end undoes it, in whichever order they end.
    """

    def __init__(self, change: Callable[[], Undo]) -> None:
        """Take the function that makes the change and returns the function that undoes it."""
        self._change = change
        self._undo: Undo = lambda: None
        self._blocks = 0
        self._lock = threading.Lock()

    @contextmanager
    def made(self) -> Iterator[None]:
        """Make the change for a block."""
        with self._lock:
            if not self._blocks:
                self._undo = self._change()
            self._blocks += 1
        try:
            yield
        finally:
            with self._lock:
                self._blocks -= 1
                if not self._blocks:
                    self._undo()


def _set_environment() -> Undo:
    missing = {name: value for name, value in ENVIRONMENT.items() if name not in os.environ}
    added = {name: value for name, value in missing.items() if name not in _KEPT_BY_LIBRARIES}
    os.environ.update(added)

    def undo() -> None:
        for name in added:
            os.environ.pop(name, None)

    return undo


def _silence_flower() -> Undo:
    log = logging.getLogger("flwr")
    level, propagate = log.level, log.propagate
    log.setLevel(max(level, logging.WARNING))
    log.propagate = False

    def undo() -> None:
        log.setLevel(level)
        log.propagate = propagate

    return undo


_environment, _flower = SharedChange(_set_environment), SharedChange(_silence_flower)
_hosts: list[int] = []  # threads of torch in the host, once for every Python thread with a block on one thread
_lock, _here = threading.Lock(), threading.local()


@contextmanager
def one_thread() -> Iterator[None]:
    """Have torch compute on one thread for a block, so that sums have one order; behind it, on as many as before."""
    import torch  # noqa: PLC0415 - a list of names waits for no torch

    if getattr(_here, "is_inside", False):
        yield
        return
    with _lock:
        _hosts.append(_hosts[0] if _hosts else torch.get_num_threads())
    _here.is_inside = True
    torch.set_num_threads(1)
    try:
        yield
    finally:
        _here.is_inside = False
        with _lock:
            torch.set_num_threads(_hosts.pop())


@contextmanager
def hosted() -> Iterator[None]:
    """Set environment, Flower's log and torch's threads for a run inside somebody's process, and restore them."""
    with _environment.made(), _flower.made(), one_thread():
        yield
