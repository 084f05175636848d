"""Texts that are read from the beginning, because what happens in a forward pass depends on places in a text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_IS_ON: ContextVar[bool] = ContextVar("reads whole texts", default=False)


@contextmanager
def whole_texts() -> Iterator[None]:
    """Have every text read from the beginning, so that place t of an activation (B, T, ...) is token t of its text."""
    before = _IS_ON.set(True)
    try:
        yield
    finally:
        _IS_ON.reset(before)


def reads_whole_texts() -> bool:
    """Say whether texts are to be read from the beginning."""
    return _IS_ON.get()
