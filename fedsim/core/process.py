"""Settings of a worker process, and how one is started. `prepare` must run before torch or flwr is imported.

Spinning OpenMP threads and page-faulting allocators cost small models half their time; Flower would post usage
data and ask for updates.
"""

from __future__ import annotations

import ctypes
import io
import logging
import os
import resource
import runpy
import signal
import sys
from pathlib import Path
from typing import TextIO

ENVIRONMENT = {  # what `prepare` sets
    "OMP_WAIT_POLICY": "PASSIVE",
    "KMP_BLOCKTIME": "0",
    "OMP_NUM_THREADS": "1",
    "FLWR_LOG_LEVEL": "WARNING",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
}
_GLIBC_TRIM_THRESHOLD = -1
_GLIBC_MMAP_THRESHOLD = -3
_KEEP = 1 << 30
_GIB = 1 << 30
_DIE_WITH_PARENT = 1
own_folders: list[str] = []
"""Folders of the user's own methods and modules; see `find_own_modules`."""
_FOLLOW = (  # what is set for a process outlives the change of its program
    "import os, sys; from fedsim.core.process import follow; "
    "follow(int(sys.argv[1])); os.execv(sys.argv[2], sys.argv[2:])"
)


def prepare() -> None:
    """Set environment, log and allocator; what the user has set stays."""
    logging.getLogger("flwr").propagate = False  # Opacus gives the root log a handler, which would tell every notice
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        mallopt = None
    if mallopt is not None:
        mallopt(_GLIBC_MMAP_THRESHOLD, _KEEP)
        mallopt(_GLIBC_TRIM_THRESHOLD, _KEEP)


def limit_memory(gibibytes: float) -> None:
    """Bound this process's address space; 0 for no bound."""
    if gibibytes > 0:
        size = int(gibibytes * _GIB)
        resource.setrlimit(resource.RLIMIT_AS, (size, size))


def command_of(module: str, *arguments: str) -> list[str]:
    """Return the command of a process that runs a module and ends with this one, whenever and however that ends."""
    return [sys.executable, "-P", "-m", "fedsim.core.process", str(os.getpid()), module, *arguments]


def program_of(path: Path, *arguments: str) -> list[str]:
    """Return the command of a program that ends with this process, as `command_of` does for a module."""
    return [sys.executable, "-P", "-c", _FOLLOW, str(os.getpid()), str(path), *arguments]


def follow(parent: int) -> None:
    """End this process when its parent ends, at once if that is gone already. To be called before slow imports."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def prepare_to_follow(parent: int) -> None:
    """Do what a process of a pool does first: `follow` and `prepare`."""
    follow(parent)
    prepare()


def offer_working_folder() -> None:
    """Have modules of the working folder found once somebody names one: see `find_own_modules`."""
    here = os.getcwd()
    if here not in own_folders:
        own_folders.append(here)


def find_own_modules(name: str) -> None:
    """Have modules found beside the one of this name, if that lies in a folder that was offered, after all others.

    Nothing in such a folder is imported before: a file there may be called like an installed module, or like one that
    is missing.
    """
    top = name.partition(".")[0]
    for folder in map(Path, own_folders):
        if ((folder / f"{top}.py").is_file() or (folder / top).is_dir()) and str(folder) not in sys.path:
            sys.path.append(str(folder))


def serve_parent() -> TextIO:
    """Make this a process that works for its parent, and return where its answers go, a line each.

    It leaves Ctrl-C to its parent, offers the folder where it was started, and sends what foreign code prints to
    standard error.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    offer_working_folder()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # else what it said last is lost where it is ended
    return answers


if __name__ == "__main__":
    follow(int(sys.argv[1]))
    _, _, name, *sys.argv[1:] = sys.argv
    runpy.run_module(name, run_name="__main__", alter_sys=True)
