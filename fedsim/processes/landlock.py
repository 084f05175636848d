"""Permanent restriction of a process by Linux's Landlock: files, network and other processes.

Open files stay open. `python -m fedsim.processes.landlock MODULE PLACES` restricts itself before it loads anything
else: an earlier thread would stay unrestricted.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import runpy
import struct
import sys
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446  # the same on every processor
_ASK_VERSION = 1
_BENEATH_PATH = 1
_GAIN_NO_PRIVILEGES = 38

_RUN, _WRITE, _READ, _LIST, _TRUNCATE, _IOCTL = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14, 1 << 15
_OF_A_FILE = _WRITE | _READ | _TRUNCATE | _IOCTL  # the other rights apply to folders only
_OF_FILES = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: _IOCTL}  # additions by version: refer, truncate, ioctl
_TCP, _SIGNALS_AND_SOCKETS = 0b11, 0b11
_HAS_TCP, _HAS_SIGNALS = 4, 6  # the versions that added them


@dataclass(frozen=True)
class Places:
    """File access of a restricted process.

    Attributes:
        readable: files and folders, with all below them.
        listable: folders that it may list, recursively.
        devices: files that it may read, write and send ioctl commands to.
        writable: files and folders, with all below them, that it may also write, create and remove.
    """

    readable: Sequence[str]
    listable: Sequence[str]
    devices: Sequence[str]
    writable: Sequence[str] = ()

    def as_argument(self) -> str:
        """Return the places as an argument of a command: compressed, since Linux limits an argument to 128 KiB."""
        return base64.b64encode(zlib.compress(json.dumps(asdict(self)).encode())).decode()

    @classmethod
    def from_argument(cls, argument: str) -> Places:
        """Return the places that `as_argument` wrote."""
        return cls(**json.loads(zlib.decompress(base64.b64decode(argument))))


def version() -> int:
    """Return the version of Landlock that this machine has, 0 for none."""
    if sys.platform != "linux":
        return 0
    return max(0, _libc().syscall(_CREATE, None, ctypes.c_size_t(0), _ASK_VERSION))


def describe_gaps(known: int) -> str:
    """Return, as the end of a sentence, the accesses that only later versions of Landlock restrict; '' for none."""
    if not known:
        return "files, the network, and other processes of the same user"
    gaps = ["connections by TCP"] * (known < _HAS_TCP) + ["signals to other processes"] * (known < _HAS_SIGNALS)
    return " and ".join(gaps)


def restrict(places: Places) -> None:
    """Restrict this thread, and all its future children, to these places.

    Afterwards it cannot read and write other files, run programs, open TCP connections, or trace, read the memory of,
    or signal a process outside. Accesses that this machine's Landlock cannot restrict stay possible.
    """
    known = version()
    if not known:
        return
    handled = sum(rights for version, rights in _OF_FILES.items() if version <= known)
    fields = [handled, _TCP * (known >= _HAS_TCP), _SIGNALS_AND_SOCKETS * (known >= _HAS_SIGNALS)]
    rules = struct.pack("<3Q", *fields)[: 8 if known < _HAS_TCP else 16 if known < _HAS_SIGNALS else 24]
    ruleset = _call_landlock(_CREATE, rules, ctypes.c_size_t(len(rules)), 0)
    for paths, rights in (
        (places.readable, _READ | _LIST),
        (places.listable, _LIST),
        (places.devices, (_READ | _WRITE | _IOCTL) & handled),
        (places.writable, handled & ~(_RUN | _IOCTL)),
    ):
        for path in paths:
            _allow(ruleset, path, rights)
    _libc().prctl(_GAIN_NO_PRIVILEGES, 1, 0, 0, 0)
    _call_landlock(_RESTRICT, ruleset, 0)
    os.close(ruleset)


def command_of(module: str, places: Places) -> list[str]:
    """Return the command of a process that runs a module and is restricted before."""
    return [sys.executable, "-P", "-m", "fedsim.processes.landlock", module, places.as_argument()]


def _allow(ruleset: int, path: str, rights: int) -> None:
    """Add a rule; a missing path needs no rule."""
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        allowed = rights if os.path.isdir(path) else rights & _OF_A_FILE
        _call_landlock(_ADD_RULE, ruleset, _BENEATH_PATH, struct.pack("<Qi", allowed, place), 0)
    finally:
        os.close(place)


def _call_landlock(number: int, *arguments: object) -> int:
    result = _libc().syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"Landlock: {os.strerror(ctypes.get_errno())}")
    return result


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


if __name__ == "__main__":
    _, name, described = sys.argv
    restrict(Places.from_argument(described))
    sys.argv = sys.argv[:1]
    runpy.run_module(name, run_name="__main__", alter_sys=True)
