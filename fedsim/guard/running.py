"""Run of an app on a message, in a subprocess. Its answer is a fixed number of bytes of numbers, never parsed."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from flwr.app import Context, Message, RecordDict

from fedsim.core.errors import FedsimError
from fedsim.core.foreign.flower.messages import context_to_proto, message_to_proto, recorddict_to_proto
from fedsim.core.types import Tensors
from fedsim.guard import app_command
from fedsim.guard.policy import EVALUATE, AppsTable, category_of
from fedsim.processes import frames
from fedsim.processes.child_process import ChildProcess
from fedsim.processes.reaper import remove_tree

_MOST_STATE = 1 << 28  # bytes that an app may keep between messages
_MOST_LOG = 1 << 20  # bytes of a message that are logged
_MOST_SERIES = 8  # number of series with stored states: a server may begin any number of series
_PREFIX = "app-"  # of the folder of a message
_FAREWELL = 10.0  # seconds until pipes of an ended app are left alone
_LOG = logging.getLogger(__name__)
_CHUNK = 1 << 16  # bytes that are read from a pipe at once


@dataclass(frozen=True)
class AppTask:
    """A SuperNode's data for a message.

    Attributes:
        message: from the server.
        context: the node's settings and the run's.
        series: of runs that share the app's state.
        fab: the app, as `flwr build` packs it.
    """

    message: Message
    context: Context
    series: int
    fab: bytes


class AppProcesses:
    """Runs apps under a policy, and stores their states of the latest series of runs, unread.

    Args:
        apps: of the policy.
        folder: in which each message gets a folder for its time.
    """

    def __init__(self, apps: AppsTable, folder: Path) -> None:
        self._apps, self._folder = apps, folder
        self._states: dict[int, bytes] = {}

    def run(self, order: AppTask, expected: Tensors) -> Tensors:
        """Return the app's arrays or figures, with names, shapes and types of the expected tensors.

        A training returns arrays like the received arrays. An evaluation returns the named figures as float64 scalars,
        NaN for a figure that is missing or no number.

        The app's folder stays until `clean`: the app controls the time that its removal needs.

        Raises:
            FedsimError: the app failed, exceeded its time, or wrote something else.
        """
        size = sum(tensor.nbytes for tensor in expected.values())
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self._folder))
        with tempfile.TemporaryFile() as answers:
            self._run_process(folder, order, list(expected), answers, size + _MOST_STATE + 2 * frames.HEAD_SIZE)
            numbers, state = _parts(answers, max(size, _MOST_STATE))
        if len(numbers) != size:
            raise FedsimError(f"the app wrote {len(numbers)} bytes of numbers, expected {size}")
        self._keep(order.series, state)
        return _tensors(numbers, expected)

    def clean(self) -> None:
        """Remove the folders of all apps that have run. To be called when their replies were sent."""
        for folder in self._folder.glob(f"{_PREFIX}*"):
            try:
                remove_tree(folder)
            except OSError as error:
                _LOG.warning("cannot remove %s, which an app has used: %s", folder, error)

    def _keep(self, series: int, state: bytes) -> None:
        self._states.pop(series, None)
        self._states[series] = state
        for oldest in list(self._states)[:-_MOST_SERIES]:
            del self._states[oldest]

    def _run_process(self, folder: Path, order: AppTask, names: list[str], answers: IO[bytes], limit: int) -> None:
        state = self._states.get(order.series) or recorddict_to_proto(RecordDict()).SerializeToString()
        with tempfile.TemporaryFile() as questions, self._log() as log:
            parts = (message_to_proto(order.message), context_to_proto(order.context))
            figures = names if category_of(order.message.metadata.message_type) == EVALUATE else []
            frames.write_parts(
                questions, *(part.SerializeToString() for part in parts), state, json.dumps(figures).encode(), order.fab
            )
            questions.seek(0)
            app = ChildProcess(
                app_command.command_of(self._apps, folder),
                env=app_command.environment(folder),
                cwd=folder,
                stdin=questions,
                stderr=subprocess.PIPE,
            )
            drains = [Drain(app.stdout, answers, limit), Drain(app.stderr, log, _MOST_LOG)]
            try:
                code = app.wait(self._apps.seconds)
            finally:
                app.end()
                for drain in drains:
                    drain.finish(_FAREWELL)
        if code is None:
            raise FedsimError(f"the app took longer than {self._apps.seconds:g} seconds")
        if code:
            raise FedsimError(f"the app's process ended with exit code {code}")

    def _log(self) -> IO[bytes]:
        """Open the log for appending; apps get a pipe, never this file."""
        return Path(os.devnull).open("ab") if self._apps.log is None else self._apps.log.open("ab")


def _parts(answers: IO[bytes], limit: int) -> tuple[bytes, bytes]:
    answers.seek(0)
    try:
        numbers, state = frames.read_parts(answers, limit)
    except (frames.FrameError, ValueError) as error:
        raise FedsimError(f"the app's answer cannot be read: {error}") from error
    return numbers, state


def _tensors(numbers: bytes, like: Tensors) -> Tensors:
    tensors: dict[str, torch.Tensor] = {}
    offset = 0
    for name, tensor in like.items():
        part = np.frombuffer(numbers, tensor.numpy().dtype, tensor.numel(), offset).copy()
        tensors[name], offset = torch.from_numpy(part).reshape(tensor.shape), offset + tensor.nbytes
    return tensors


class Drain:
    """Reads a pipe to its end in a thread, and appends its first bytes to a file. Further bytes are dropped.

    So the subprocess never waits for a full pipe, and it can neither change nor remove bytes that it has written.
    """

    def __init__(self, pipe: IO[bytes], file: IO[bytes], limit: int) -> None:
        """Start the thread.

        Args:
            pipe: unbuffered standard output or standard error of a subprocess.
            file: destination, which this process alone can reach.
            limit: largest number of bytes that are copied.
        """
        self._pipe, self._file, self._left = pipe, file, limit
        self._thread = threading.Thread(target=self._copy, daemon=True)
        self._thread.start()

    def finish(self, seconds: float) -> None:
        """Wait for the end of the pipe, at most so many seconds: a process that was left behind may hold it open."""
        self._thread.join(seconds)

    def _copy(self) -> None:
        with self._pipe:
            while chunk := self._pipe.read(_CHUNK):
                self._write(chunk)

    def _write(self, chunk: bytes) -> None:
        try:
            self._file.write(chunk[: self._left])
            self._file.flush()
        except (OSError, ValueError):  # no space left, or the file was closed since the pipe stayed open
            self._left = 0
        self._left = max(0, self._left - len(chunk))
