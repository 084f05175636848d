"""A method in a process of its own, which gets what the attacker sees, serialised, and nothing else."""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

import torch

from fedsim.core import supervisor
from fedsim.core.choices import Choice
from fedsim.core.deadline import DeadlineReached, check_time
from fedsim.core.errors import FedsimError
from fedsim.core.registry import Kind
from fedsim.core.types import Observation, OnStep
from fedsim.processes import frames, landlock, sandbox
from fedsim.processes.methods import AtWork, ShouldStop, ignore_step

_LOOK_UP_EVERY = 0.1
_MOST_AT_ONCE = 1 << 20
_FAREWELL = 10.0
_ROOM = 64 << 20  # bytes that any answer may have
_TIMES = 4  # beside those, so many times what was sent and what the examples and masks that it asks about take
_WORD = 8  # bytes of a number
_MANY = 256  # examples, where their number is not known


@contextmanager
def start_apart(kind: Kind, choice: Choice, should_stop: ShouldStop) -> Iterator[AtWork]:
    """Yield a method in a process of its own, which ends with this block."""
    method = Apart({"kind": kind, "name": choice.name, "settings": choice.settings}, should_stop)
    try:
        yield method
    finally:
        method.end()


class Apart:
    """A method in another process; a new one takes its place when it ended by itself.

    Args:
        hello: kind and name of the method, with its settings.
        should_stop: says that somebody asked to stop.
    """

    def __init__(self, hello: dict[str, Any], should_stop: ShouldStop) -> None:
        self._hello, self._should_stop = hello, should_stop
        self._process = _start()
        self._greet()

    def call(
        self,
        name: str,
        *seen: Any,
        generators: Sequence[torch.Generator] = (),
        watch: OnStep = ignore_step,
        seconds: float | None = None,
    ) -> Any:
        """Return what a function of the method answers: tensors, numbers, text, guesses, and tuples of those.

        Raises:
            KeyboardInterrupt: somebody asked to stop.
            DeadlineReached: no time is left; the process has been ended.
            FedsimError: the method failed, its process ended, or what it sent cannot be read.
        """
        states = [(generator.initial_seed(), generator.get_state()) for generator in generators]
        try:
            request = (name, seen, states, seconds)
            kind, payload = self.ask(frames.CALL, request, watch, sum(map(_size_of, _observations(seen))))
            if kind == frames.ANSWER:
                return frames.unpacked(payload)
        except (Exception, DeadlineReached):  # what a method sends may be anything
            self.end()  # what else is in the pipe answers nothing that will be asked
            raise
        raise FedsimError(frames.read_reason(payload))

    def end(self) -> None:
        """End the process, whatever it is doing, and all that it started."""
        self._process.terminate()  # its keeper ends the others
        try:
            self._process.wait(_FAREWELL)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _status(self) -> int:
        """Return with what the process ended, after its last word; one that lives on in silence is ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_FAREWELL)
        self.end()
        return self._process.returncode

    def _greet(self) -> None:
        """Tell a new process which method it is."""
        try:
            self._write(frames.frame(frames.HELLO, json.dumps(self._hello).encode()))
        except KeyboardInterrupt:
            self.end()
            raise

    def ask(
        self, kind: frames.Kind, request: object, watch: OnStep = ignore_step, expected: int = 0
    ) -> tuple[frames.Kind, bytes]:
        """Return the answer to a request, and show steps meanwhile.

        Args:
            kind: of the request.
            request: what can travel.
            watch: is shown the steps.
            expected: bytes of what is asked about; an answer of many times that and of the request is refused.

        Raises:
            KeyboardInterrupt: somebody asked to stop.
            FedsimError: the request cannot travel, the process ended, or its answer is too long.
        """
        content = frames.saved(request)
        if self._process.poll() is not None:
            self._process = _start()
            self._greet()
        self._write(frames.frame(kind, content))
        while True:
            kind_of_answer, payload = self._frame(_ROOM + _TIMES * (len(content) + expected))
            if kind_of_answer != frames.STEP:
                return kind_of_answer, payload
            watch(frames.step_of(payload))

    def _frame(self, most: int) -> tuple[frames.Kind, bytes]:
        kind, length = frames.head(self._read(frames.HEAD_SIZE))
        if length > most:
            raise FedsimError(f"its answer has {length:,} bytes, expected at most {most:,} for what it was asked.")
        return kind, self._read(length)

    def _read(self, length: int) -> bytes:
        """Return the next bytes; looks up now and then whether to stop.

        Raises:
            KeyboardInterrupt: somebody asked to stop.
            FedsimError: the process ended.
        """
        pipe = _opened(self._process.stdout)
        parts: list[bytes] = []
        while length:
            self._look_up()
            if not select.select([pipe], [], [], _LOOK_UP_EVERY)[0]:
                continue
            part = os.read(pipe, min(length, _MOST_AT_ONCE))
            if not part:
                raise FedsimError(f"its process ended with {self._status()} before it answered.")
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def _write(self, content: bytes) -> None:
        """Send bytes, as fast as they are read; a process that is gone says so by its missing answer.

        Raises:
            KeyboardInterrupt: somebody asked to stop.
        """
        pipe, rest = _opened(self._process.stdin), memoryview(content)
        while rest:
            self._look_up()
            if select.select([], [pipe], [], _LOOK_UP_EVERY)[1]:
                try:
                    rest = rest[os.write(pipe, rest[:_MOST_AT_ONCE]) :]
                except BrokenPipeError:
                    return

    def _look_up(self) -> None:
        """Stop waiting where somebody asked to stop, or where the processor seconds of the caller are over."""
        if self._should_stop():
            raise KeyboardInterrupt
        check_time()


def _start() -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        supervisor.command_of(landlock.command_of("fedsim.processes.child", sandbox.places())),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        env=sandbox.environment(),
        start_new_session=True,  # Ctrl-C is for the run, which ends this process
    )
    os.set_blocking(_opened(process.stdin), False)
    return process


def _opened(pipe: IO[bytes] | None) -> int:
    assert pipe is not None
    return pipe.fileno()


def _observations(seen: Sequence[Any]) -> Iterator[Observation]:
    """Yield the observations among what a method may see, alone or in lists."""
    for part in seen:
        yield from (one for one in (part if isinstance(part, list) else [part]) if isinstance(one, Observation))


def _size_of(seen: Observation) -> int:
    """Return how many bytes the examples and masks behind an update take, as far as the observation says."""
    examples = seen.examples or seen.batch_size or _MANY
    masks = sum(math.prod(site.shape) for site in seen.sites) * (1 if seen.batch_size else examples)
    return _WORD * (examples * math.prod(seen.spec.shape) + seen.local_steps * masks)
