"""Reporting of the number of tokens that a model keeps in a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from torch import Tensor, nn

_Listener = Callable[[Tensor | Sequence[int]], None]


class Reducing(nn.Module):
    """Base class of modules that drop or merge tokens. Subclasses call `report` once per forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self._listeners: list[_Listener] = []

    def report(self, kept: Tensor | Sequence[int]) -> None:
        """Report the number of kept tokens of each example, shape (B,), to the listeners."""
        for listener in self._listeners:
            listener(kept)


def reducing_places(model: nn.Module) -> list[str]:
    """Return the names of the modules that drop or merge tokens."""
    return [name for name, module in model.named_modules() if isinstance(module, Reducing)]


@contextmanager
def kept_tokens(model: nn.Module) -> Iterator[dict[str, list[tuple[int, ...]]]]:
    """Record the kept tokens of each example, by module name, for each forward pass within the context."""
    seen: dict[str, list[tuple[int, ...]]] = {}
    listeners: list[tuple[Reducing, _Listener]] = []
    for name, module in model.named_modules():
        if isinstance(module, Reducing):
            listener = partial(_note, seen.setdefault(name, []))
            module._listeners.append(listener)
            listeners.append((module, listener))
    try:
        yield seen
    finally:
        for module, listener in listeners:
            module._listeners.remove(listener)


def _note(seen: list[tuple[int, ...]], kept: Tensor | Sequence[int]) -> None:
    seen.append(tuple(int(count) for count in (kept.tolist() if isinstance(kept, Tensor) else kept)))
