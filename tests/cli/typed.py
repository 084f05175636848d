"""Commands that a person types: in processes of their own, or in that of a test by the fixture `command`.

`fedsim` forks its process from a server that has loaded the library already, since that takes longer than most
commands do. `fresh` starts a new interpreter, for other places of the code.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

Say = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]

_SECONDS = 300.0
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["fedsim.api"])  # not the console, which measures its width when it is loaded


def fedsim(*arguments: str, cwd: Path, columns: int = 200) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, and return how it ended and what it printed."""
    with tempfile.TemporaryDirectory() as kept:
        printed = Path(kept, "out"), Path(kept, "errors")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": str(columns)}
        process = _SERVER.Process(target=_command, args=(arguments, cwd.resolve(), environment, printed))
        process.start()
        process.join(_SECONDS)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(arguments, _SECONDS)
        output, errors = (path.read_text() for path in printed)
    return subprocess.CompletedProcess(arguments, process.exitcode, output, errors)


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


def _command(arguments: tuple[str, ...], cwd: Path, environment: Mapping[str, str], printed: tuple[Path, Path]) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for stream, path in zip((1, 2), printed, strict=True):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), stream)
    sys.argv = ["fedsim", *arguments]
    from fedsim.cli.main import main

    main()
