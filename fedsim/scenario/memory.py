"""Available memory of the process, and refusal of models that would exceed it."""

from __future__ import annotations

import math
import resource
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from fedsim.core.errors import FedsimError

_COPIES = 2  # copies of each trained value: weight and gradient
_MADE = ("empty", "zeros", "ones", "full", "rand", "randn")
_KIB, _GIB = 1 << 10, 1 << 30
_OF_GROUP = Path("/sys/fs/cgroup")


def free() -> int | None:
    """Return the available bytes of this process, limited by machine, cgroup and rlimit; None if unknown."""
    rooms = [room for room in (_machine_memory(), _group_memory(), _process_memory()) if room is not None]
    return min(rooms, default=None)


@contextmanager
def refusing_too_large(owner: str) -> Iterator[None]:
    """Refuse a model with weights and gradients above the available memory, before torch allocates it.

    Args:
        owner: name of the model at the beginning of the message.

    Raises:
        FedsimError: the tensors created in this block are too large.
    """
    room = free()
    if room is None:
        yield
        return
    with _Counting(room, owner):
        yield


class _Counting(TorchFunctionMode):
    """Sums the sizes of created tensors. A dispatch mode could do the same, but would load torch's compiler."""

    def __init__(self, room: int, owner: str) -> None:
        super().__init__()
        self._room, self._whose, self._taken = room, owner, 0

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__name__", "") in _MADE and torch.device(given.get("device") or "cpu").type == "cpu":
            kind = given.get("dtype") or torch.get_default_dtype()
            self._take(math.prod(_size(args, given)) * kind.itemsize)
        return func(*args, **given)

    def _take(self, size: int) -> None:
        self._taken += size
        if _COPIES * self._taken > self._room:
            raise FedsimError(
                f"{self._whose} needs more than {_COPIES * self._taken / _GIB:.1f} GiB for its weights and their "
                f"gradient, and {self._room / _GIB:.1f} GiB of memory are free. Make the model smaller."
            )


def _size(args: tuple[Any, ...], given: Mapping[str, Any]) -> Sequence[int]:
    """Return the requested shape: by keyword, as a sequence, or as numbers."""
    size = given.get("size", args[0] if args and isinstance(args[0], Sequence) else args)
    return size if isinstance(size, Sequence) else (size,)


def _machine_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * _KIB for line in lines if line.startswith("MemAvailable:")), None)


def _group_memory() -> int | None:
    try:
        limit, used = ((_OF_GROUP / f"memory.{name}").read_text().strip() for name in ("max", "current"))
    except OSError:
        return None
    return None if limit == "max" else int(limit) - int(used)


def _process_memory() -> int | None:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return limit - pages * resource.getpagesize()
