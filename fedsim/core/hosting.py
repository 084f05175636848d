"""Process-wide changes for a run inside a host process: applied for a block, and undone afterwards."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fedsim.core.process import ENVIRONMENT

_KEPT_BY_LIBRARIES = ("HF_HUB_OFFLINE",)  # huggingface_hub keeps the value at its import
Undo = Callable[[], None]


class SharedChange:
    """A process-wide change that several blocks share, also across threads.

    The first block applies the change, and the last block to end undoes it, in any order.
    """

    def __init__(self, change: Callable[[], Undo]) -> None:
        """Set the function that applies the change and returns the undo function."""
        self._change = change
        self._undo: Undo = lambda: None
        self._blocks = 0
        self._lock = threading.Lock()

    @contextmanager
    def apply_change(self) -> Iterator[None]:
        """Apply the change for a block."""
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
_hosts: list[int] = []  # torch's number of threads in the host, once for every Python thread inside `one_thread`
_lock, _here = threading.Lock(), threading.local()


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on a single thread for a block, so that the order of sums is fixed; restore the number afterwards."""
    import torch  # noqa: PLC0415 - a list of names needs no torch

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
def host_run() -> Iterator[None]:
    """Set environment, Flower's logger and torch's threads for a run inside a host process, and restore them."""
    with _environment.apply_change(), _flower.apply_change(), one_thread():
        yield
