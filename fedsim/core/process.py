"""Settings and start of worker processes. `prepare` must run before the import of torch or flwr.

Spinning OpenMP threads and page faults of the allocator double the time of small models; Flower would send telemetry
and check for updates.
"""

from __future__ import annotations

import ctypes
import io
import logging
import os
import resource
import signal
import sys
from pathlib import Path
from typing import IO

ENVIRONMENT = {  # set by `prepare`
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
"""Folders of user methods and modules; see `find_own_modules`."""


def prepare() -> None:
    """Set environment, logging and allocator; variables set by the user stay."""
    logging.getLogger("flwr").propagate = False  # Opacus adds a root handler, which would print every notice
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
    """Limit this process's address space; 0 for no limit."""
    if gibibytes > 0:
        size = int(gibibytes * _GIB)
        resource.setrlimit(resource.RLIMIT_AS, (size, size))


def command_of(module: str, *arguments: str) -> list[str]:
    """Return the command of a process that runs a module. It finds no modules in its working folder."""
    return [sys.executable, "-P", "-m", module, *arguments]


def follow(parent: int) -> None:
    """Kill this process when its parent ends, or at once if the parent has ended. Call before slow imports."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def prepare_to_follow(parent: int) -> None:
    """Initialise a pool process: `follow` and `prepare`."""
    follow(parent)
    prepare()


def offer_working_folder() -> None:
    """Offer modules of the working folder for import by name: see `find_own_modules`."""
    folder = os.getcwd()
    if folder not in own_folders:
        own_folders.append(folder)


def find_own_modules(name: str) -> None:
    """Append an offered folder to the search path if it contains the module of this name.

    No offered folder is on the search path before: its files may have the name of an installed or a missing module.
    """
    top = name.partition(".")[0]
    for folder in map(Path, own_folders):
        if ((folder / f"{top}.py").is_file() or (folder / top).is_dir()) and str(folder) not in sys.path:
            sys.path.append(str(folder))


def serve_parent() -> IO[bytes]:
    """Turn this process into a worker of its parent, and return the stream for answers.

    It ignores SIGINT, which the parent handles, offers the working folder, and redirects prints of user code to
    standard error.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    offer_working_folder()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # otherwise the last output is lost when the process is killed
    return answers
