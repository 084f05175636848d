"""An isolated method: a sandboxed subprocess that receives the attacker's observation, and nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from fedsim.core.choices import Choice
from fedsim.core.errors import FedsimError
from fedsim.core.time_budget import DeadlineReached, check_deadline
from fedsim.core.types import Observation, OnStep
from fedsim.processes import frames, landlock, packing, sandbox
from fedsim.processes.child_process import FAREWELL, ChannelClosed, ChildProcess
from fedsim.processes.methods import AnswerT, MethodRunner, ShouldStop, ignore_step

_LOOK_UP_EVERY = 0.1  # seconds
_ROOM = 64 << 20  # bytes that any answer may have
_TIMES = 4  # answer limit: additionally this multiple of the bytes of the request, examples and masks
_WORD = 8  # bytes of a number
_MANY = 256  # examples, where their number is not known


@contextmanager
def start_in_subprocess(choice: Choice, should_stop: ShouldStop) -> Iterator[MethodRunner]:
    """Yield an attack in a process of its own, which ends with this block."""
    method = SubprocessRunner({"name": choice.name, "settings": choice.settings}, should_stop)
    try:
        yield method
    finally:
        method.end()


class SubprocessRunner:
    """A method in a subprocess; a new subprocess replaces a subprocess that ended by itself.

    Args:
        hello: name of the attack, with its settings.
        should_stop: returns whether a stop was requested.
    """

    def __init__(self, hello: dict[str, Any], should_stop: ShouldStop) -> None:
        self._hello, self._should_stop = hello, should_stop
        self._child = _start()
        self._greet()

    def call(
        self,
        function: Callable[..., AnswerT],
        *seen: Any,
        generators: Sequence[torch.Generator] = (),
        watch: OnStep = ignore_step,
        seconds: float | None = None,
    ) -> AnswerT:
        """Return the answer of a method's function: tensors, numbers, text, guesses, and tuples of these.

        Raises:
            KeyboardInterrupt: a stop was requested.
            DeadlineReached: no time is left; the process has been ended.
            FedsimError: the method failed, its process ended, or its answer cannot be parsed.
        """
        states = [(generator.initial_seed(), generator.get_state()) for generator in generators]
        try:
            request = (function.__name__, seen, states, seconds)
            kind, payload = self.ask(frames.CALL, request, watch, sum(map(_size_of, _observations(seen))))
            if kind == frames.ANSWER:
                return packing.unpack_values(payload)
        except (Exception, DeadlineReached):  # a method may send any bytes
            self.end()  # the rest of the pipe answers no later request
            raise
        raise FedsimError(packing.read_reason(payload))

    def end(self) -> None:
        """End the subprocess and all its descendants."""
        self._child.close()

    def _greet(self) -> None:
        """Send the method's name and settings to a new process."""
        try:
            self._send(frames.frame(frames.HELLO, json.dumps(self._hello).encode()))
        except KeyboardInterrupt:
            self.end()
            raise

    def ask(
        self, kind: frames.Kind, request: object, watch: OnStep = ignore_step, expected: int = 0
    ) -> tuple[frames.Kind, bytes]:
        """Return the answer to a request, and report steps meanwhile.

        Args:
            kind: of the request.
            request: a serialisable value.
            watch: receives the steps.
            expected: bytes of the examples in question; an answer of many times this and the request's size is refused.

        Raises:
            KeyboardInterrupt: a stop was requested.
            FedsimError: the request cannot be serialised, the process ended, or its answer is too long.
        """
        content = packing.serialise_value(request)
        if self._child.code is not None:
            self._child.close()
            self._child = _start()
            self._greet()
        self._send(frames.frame(kind, content))
        while True:
            kind_of_answer, payload = self._receive(_ROOM + _TIMES * (len(content) + expected))
            if kind_of_answer != frames.STEP:
                return kind_of_answer, payload
            watch(packing.step_of(payload))

    def _send(self, content: bytes) -> None:
        self._child.send(content, self._look_up)

    def _receive(self, limit: int) -> frames.Frame:
        """Return the next frame.

        Raises:
            KeyboardInterrupt: a stop was requested.
            FedsimError: the subprocess has ended, or the frame is longer than `limit` bytes.
        """
        frame = None
        while frame is None:
            self._look_up()
            try:
                frame = self._child.receive(limit, _LOOK_UP_EVERY)
            except frames.FrameError as error:
                raise FedsimError(f"its answer has {error} for this request.") from error
            except ChannelClosed as error:
                code = self._child.close(FAREWELL)
                raise FedsimError(f"its process ended with {code} before it answered.") from error
        return frame

    def _look_up(self) -> None:
        """Raise if a stop was requested, or if the caller's processor time is used up."""
        if self._should_stop():
            raise KeyboardInterrupt
        check_deadline()


def _start() -> ChildProcess:
    return ChildProcess(
        landlock.command_of("fedsim.processes.child", sandbox.places()),
        env=sandbox.environment(),
    )


def _observations(seen: Sequence[Any]) -> Iterator[Observation]:
    """Yield the observations among a method's arguments, alone or in lists."""
    for part in seen:
        yield from (
            observation
            for observation in (part if isinstance(part, list) else [part])
            if isinstance(observation, Observation)
        )


def _size_of(seen: Observation) -> int:
    """Return the bytes of the examples and masks behind an update, as far as the observation shows them."""
    examples = seen.examples or seen.batch_size or _MANY
    masks = sum(math.prod(site.shape) for site in seen.sites) * (1 if seen.batch_size else examples)
    return _WORD * (examples * math.prod(seen.spec.shape) + seen.local_steps * masks)
