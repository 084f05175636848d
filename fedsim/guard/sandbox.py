"""Restricts this process to its own folder before it runs a module: mounts, capabilities, then Landlock.

Landlock does not cover chmod, chown, utime and extended attributes, so all mounts become read-only: then the kernel
refuses every change of metadata, by any system call. The working folder becomes a file system in memory with
limits on bytes and files. It disappears with the mount namespace, so that the time of its removal does not depend on
the app. The process must be in a user namespace and a mount namespace of its own, as `unshare` makes them:
`python -m fedsim.guard.sandbox MODULE FOLDER PLACES`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import runpy
import struct
import sys
from collections.abc import Sequence

from fedsim.processes import landlock

_MOST_BYTES, _MOST_FILES = 1 << 30, 10_000  # of the working folder

_MOUNT_SETATTR = 442  # the same on every processor
_HERE, _RECURSIVE = -100, 0x8000
_READ_ONLY = 1
_NO_SET_USER, _NO_DEVICES, _BIND, _AND_BELOW = 2, 4, 4096, 16384
_CAPABILITIES_3 = 0x20080522
_AMBIENT, _CLEAR_ALL = 47, 4


def command_of(module: str, folder: str, places: landlock.Places) -> list[str]:
    """Return the command of a process that restricts itself and then runs a module in a folder.

    Args:
        module: to run.
        folder: working folder of the process. It is empty, and stays empty for other processes.
        places: of Landlock; files in `writable` folders persist.
    """
    return [sys.executable, "-P", "-m", "fedsim.guard.sandbox", module, folder, places.as_argument()]


def restrict(folder: str, places: landlock.Places) -> None:
    """Restrict this process and all that it starts, for good.

    Raises:
        RuntimeError: the process may share its mounts, since it is not the first process of a process namespace.
        OSError: the kernel refused; nothing may be run then.
    """
    if os.getpid() != 1:
        raise RuntimeError("the sandbox begins as the first process of its namespaces. Start it with unshare --fork")
    _set_read_only("/", is_read_only=True)
    for path in places.writable:
        _mount(path, path, "", _BIND | _AND_BELOW)
        with contextlib.suppress(PermissionError):  # was read-only before
            _set_read_only(path, is_read_only=False)
    limits = f"size={_MOST_BYTES},nr_inodes={_MOST_FILES},mode=700"
    _mount("fedsim", folder, "tmpfs", _NO_SET_USER | _NO_DEVICES, limits)
    os.chdir(folder)
    _drop_capabilities()
    landlock.restrict(landlock.Places(places.readable, places.listable, places.devices, [*places.writable, folder]))


def _set_read_only(path: str, *, is_read_only: bool) -> None:
    """Set or clear the attribute of a mount and of all mounts below it."""
    attributes = struct.pack("<4Q", _READ_ONLY * is_read_only, _READ_ONLY * (not is_read_only), 0, 0)
    _check(_libc().syscall(_MOUNT_SETATTR, _HERE, path.encode(), _RECURSIVE, attributes, ctypes.c_size_t(32)), path)


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    arguments = [text.encode() for text in (source, target, kind)]
    _check(_libc().mount(*arguments, ctypes.c_ulong(flags), options.encode()), target)


def _drop_capabilities() -> None:
    """Drop all capabilities in the user namespace, permanently for this process and its children."""
    _check(_libc().prctl(_AMBIENT, _CLEAR_ALL, 0, 0, 0), "capabilities")
    _check(_libc().capset(struct.pack("<Ii", _CAPABILITIES_3, 0), bytes(24)), "capabilities")


def _check(result: int, name: str) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _serve(arguments: Sequence[str]) -> None:
    module, folder, described = arguments
    restrict(folder, landlock.Places.from_argument(described))
    sys.argv = sys.argv[:1]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _serve(sys.argv[1:])
