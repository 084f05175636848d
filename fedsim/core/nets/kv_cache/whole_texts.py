"""Processing of texts without a cache, for hooks that depend on positions in a text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_IS_ON: ContextVar[bool] = ContextVar("reads whole texts", default=False)


@contextmanager
def whole_texts() -> Iterator[None]:
    """Process all texts from the beginning, so that index t of an activation (B, T, ...) is token t of its text."""
    before = _IS_ON.set(True)
    try:
        yield
    finally:
        _IS_ON.reset(before)


def reads_whole_texts() -> bool:
    """Return whether texts must be processed from the beginning."""
    return _IS_ON.get()
