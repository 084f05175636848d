"""An attack in a process of its own, which gets the serialised observation and nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from fedsim.core.errors import FedsimError, reason
from fedsim.core.types import Observation, OnStep, Reconstruction
from fedsim.scenario import AttackChoice
from fedsim.threat.attacking import Attacker, ShouldStop, frames

_LOOK_UP_EVERY = 0.1
_MOST_AT_ONCE = 1 << 20
_FAREWELL = 10.0


@contextmanager
def start_isolated(choice: AttackChoice, seed: int, should_stop: ShouldStop) -> Iterator[Attacker]:
    """Yield the attack in a process of its own, which ends with this block."""
    about = {"name": choice.name, "settings": choice.settings}
    own = _Searching({"attack": about, "seed": seed}, should_stop)
    try:
        yield own
    finally:
        own.end()


class Apart:
    """An attack in another process; a new one takes its place when it ended by itself.

    Args:
        hello: which attack, with its settings, and the seed of torch's global generator.
        should_stop: says that somebody asked to stop.
    """

    def __init__(self, hello: dict[str, Any], should_stop: ShouldStop) -> None:
        self._hello, self._should_stop = hello, should_stop
        self._process = self._start()

    def end(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait(_FAREWELL)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # what it did not read any more cannot be flushed
                pipe.close()

    def _status(self) -> int:
        """Return with what the process ended, after its last word; one that lives on in silence is ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_FAREWELL)
        self.end()
        return self._process.returncode

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "fedsim.threat.attacking.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
            start_new_session=True,  # Ctrl-C is for the run, which ends this process
        )
        _write(process, frames.frame(frames.HELLO, json.dumps(self._hello).encode()))
        return process

    def ask(self, kind: frames.Kind, request: object, watch: OnStep = lambda _step: None) -> tuple[frames.Kind, bytes]:
        """Return the answer to a request, and show steps meanwhile.

        Raises:
            KeyboardInterrupt: somebody asked to stop.
            FedsimError: the request cannot travel, or the process ended.
        """
        content = frames.saved(request)
        if self._process.poll() is not None:
            self._process = self._start()
        _write(self._process, frames.frame(kind, content))
        while True:
            told, payload = self._frame()
            if told != frames.STEP:
                return told, payload
            watch(frames.step_of(payload))

    def _frame(self) -> tuple[frames.Kind, bytes]:
        kind, length = frames.head(self._read(frames.HEAD_SIZE))
        return kind, self._read(length)

    def _read(self, length: int) -> bytes:
        """Return the next bytes; looks up now and then whether to stop.

        Raises:
            KeyboardInterrupt: somebody asked to stop.
            FedsimError: the process ended.
        """
        pipe = self._process.stdout
        assert pipe is not None
        parts: list[bytes] = []
        while length:
            if self._should_stop():
                raise KeyboardInterrupt
            if not select.select([pipe], [], [], _LOOK_UP_EVERY)[0]:
                continue
            part = os.read(pipe.fileno(), min(length, _MOST_AT_ONCE))
            if not part:
                raise FedsimError(f"its process ended with {self._status()} before it answered.")
            parts.append(part)
            length -= len(part)
        return b"".join(parts)


class _Searching(Apart):
    """An attack on updates."""

    def at_once(self, first: Observation) -> int:
        try:
            kind, payload = self.ask(frames.AT_ONCE, first)
            return max(1, int(payload)) if kind == frames.COUNT else 1
        except Exception:  # the search will say what is wrong
            self.end()
            return 1

    def search(
        self, seen: Sequence[Observation], generators: Sequence[torch.Generator], watch: OnStep
    ) -> list[Reconstruction] | str:
        request = {"seen": list(seen), "generators": [generator.get_state() for generator in generators]}
        try:
            kind, payload = self.ask(frames.SEARCH, request, watch)
            if kind == frames.FOUND:
                found = frames.read_guesses(payload)
                return found if len(found) == len(seen) else "its process returned another number of guesses"
            return payload.decode(errors="replace")
        except Exception as error:  # what an attack sends may be anything
            self.end()  # what else is in the pipe answers nothing that will be asked
            return reason(error)


def _write(process: subprocess.Popen[bytes], content: bytes) -> None:
    """Send bytes; a process that is gone says so by its missing answer."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.write(content)
        process.stdin.flush()
