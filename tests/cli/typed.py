"""Commands that a person types: in processes of their own, or in that of a test by the fixture `command`.

`fedsim` and `started` fork it from a server that has loaded the library already, since that takes longer than most
commands do. `fresh` starts a new interpreter, for other places of the code.
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path

import pytest

Say = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]

_SECONDS = 300.0
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["tests.cli.preloaded"])


class Started:
    """A command in a process of its own, which may get signals while it runs."""

    def __init__(
        self,
        arguments: Sequence[str],
        cwd: Path,
        path: Sequence[Path] = (),
        columns: int = 200,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._kept = Path(tempfile.mkdtemp())
        self._arguments = arguments
        printed = self._kept / "out", self._kept / "errors"
        for own in printed:
            own.touch()
        found = [*map(str, path), str(ROOT)]
        told = {**os.environ, "PYTHONPATH": os.pathsep.join(found), "COLUMNS": str(columns), **(variables or {})}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(ROOT))  # where the server finds what it loads, wherever a test has gone
            forkserver.ensure_running()
        self.process = _SERVER.Process(target=_command, args=(arguments, cwd.resolve(), told, found, printed))
        self.process.start()

    @property
    def pid(self) -> int:
        """Return the number of its process."""
        assert self.process.pid is not None
        return self.process.pid

    def printed(self) -> str:
        """Return what it has printed until now."""
        return (self._kept / "out").read_text()

    def errors(self) -> str:
        """Return what it has written to standard error until now."""
        return (self._kept / "errors").read_text()

    def signal(self, how: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, how)

    def wait(self, seconds: float = _SECONDS) -> int:
        """Wait until it ends, and return its exit code, or the signal that ended it, negative."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired(list(self._arguments), seconds)
        return self.process.exitcode

    def end(self) -> None:
        """Kill it, if it has not ended, and forget what it printed."""
        self.process.kill()
        self.process.join()
        shutil.rmtree(self._kept)


@contextlib.contextmanager
def started(*arguments: str, cwd: Path, path: Sequence[Path] = (), columns: int = 200) -> Iterator[Started]:
    """Start a command that may look for modules in more places; it has ended afterwards."""
    process = Started(arguments, cwd, path, columns)
    try:
        yield process
    finally:
        process.end()


def fedsim(
    *arguments: str, cwd: Path, path: Sequence[Path] = (), columns: int = 200
) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, and return how it ended and what it printed."""
    with started(*arguments, cwd=cwd, path=path, columns=columns) as process:
        code = process.wait()
        return subprocess.CompletedProcess(arguments, code, process.printed(), process.errors())


def fresh(*arguments: str, cwd: Path, path: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of the code in another place."""
    return subprocess.run(
        [sys.executable, "-m", "fedsim.cli", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(path), "COLUMNS": "200"},
        capture_output=True,
        check=False,
        text=True,
        timeout=_SECONDS,
    )


def _command(
    arguments: tuple[str, ...],
    cwd: Path,
    environment: Mapping[str, str],
    path: Sequence[str],
    printed: tuple[Path, Path],
) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = path
    for stream, own in zip((1, 2), printed, strict=True):
        os.dup2(os.open(own, os.O_APPEND | os.O_WRONLY), stream)
    sys.argv = ["fedsim", *arguments]
    from fedsim.cli.main import main

    main()
