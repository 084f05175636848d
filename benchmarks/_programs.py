"""Programs of `benchmarks.attack_peers`: each stays alive and attacks when it is asked to, one at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks._environments import python_with
from benchmarks._victims import victims_of, write
from benchmarks.attack_peers._service import Run, Task
from fedsim.core import process

_BREACHING = "breaching==0.1.2"
_FAREWELL = 60


class Program:
    """A process that answers tasks; a context manager."""

    def __init__(self, module: str, *arguments: str, python: Path | None = None, prepared: bool = True) -> None:
        """Name a module of `benchmarks.attack_peers`.

        Args:
            module: its name.
            arguments: of its command line.
            python: the interpreter; this one when absent.
            prepared: False takes the variables of `fedsim.core.process.prepare` from its environment.
        """
        self._command = [str(python or sys.executable), "-m", f"benchmarks.attack_peers.{module}", *arguments]
        absent = () if prepared else process.ENVIRONMENT
        self._environment = {name: value for name, value in os.environ.items() if name not in absent}

    def __enter__(self) -> Program:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, text=True, env=self._environment)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None:
            self._process.kill()
        self._process.communicate(timeout=_FAREWELL)

    def ask(self, task: Task) -> Run:
        """Return how an attack went.

        Raises:
            RuntimeError: the program ended; its standard error said why.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(task.model_dump_json() + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self._command[:3])} ended with {self._process.wait(_FAREWELL)}.")
        return Run.model_validate_json(line)


def engine() -> Program:
    """Return this project's attacks in its process settings."""
    return Program("engine")


def yardstick() -> Program:
    """Return the literal attack in the process settings that Python comes with."""
    return Program("literal", prepared=False)


def prepared_yardstick() -> Program:
    """Return the literal attack in this project's process settings."""
    return Program("literal", "prepared")


def breaching_program() -> Program:
    """Return breaching's attack, in this project's process settings and an environment of its own."""
    return Program("breaching_attack", python=python_with(_BREACHING))


@contextmanager
def store_victims(data: Mapping[str, Any], model: Mapping[str, Any], victims: int) -> Iterator[Task]:
    """Store victims for the programs, and yield the task of attacking the first."""
    with tempfile.TemporaryDirectory() as folder:
        write(victims_of(data, model, victims), Path(folder))
        yield Task(folder=Path(folder), model=model)


def with_settings(task: Task, **settings: Any) -> Task:
    """Return a task with more settings."""
    return task.model_copy(update={"settings": {**task.settings, **settings}})
