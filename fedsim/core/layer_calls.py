"""What layers of any torch model read and return in a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial

from torch import Tensor, nn


class _Read(Exception):
    """All layers that were asked for have read."""


@contextmanager
def layer_inputs(model: nn.Module, names: Iterable[str]) -> Iterator[list[tuple[str, Tensor]]]:
    """Collect (name, first input) of every call of these modules, in call order, differentiable as they are."""
    seen: list[tuple[str, Tensor]] = []
    with _follow_child(model, names, lambda name, inputs: seen.append((name, inputs))):
        yield seen


@contextmanager
def layer_outputs(model: nn.Module, names: Iterable[str]) -> Iterator[list[tuple[str, Tensor]]]:
    """Collect (name, output) of every call of these modules, in call order, differentiable as they are."""
    seen: list[tuple[str, Tensor]] = []

    def note(name: str, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        seen.append((name, output))

    with ExitStack() as stack:
        for name in names:
            stack.callback(model.get_submodule(name).register_forward_hook(partial(note, name)).remove)
        yield seen


@contextmanager
def inputs_in_order(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> Iterator[list[tuple[str, Tensor]]]:
    """Collect (name, first input) of every call of a module of these kinds, in call order, detached."""
    seen: list[tuple[str, Tensor]] = []
    names = [name for name, module in model.named_modules() if isinstance(module, kinds)]
    with _follow_child(model, names, lambda name, inputs: seen.append((name, inputs.detach()))):
        yield seen


def read_by(
    model: nn.Module, layers: Sequence[str], inputs: Tensor, dropping: AbstractContextManager[None]
) -> list[Tensor]:
    """Return what layers read, each (B, ...); the model stops behind the last one.

    Args:
        model: left as it was.
        layers: names of modules, in the order in which they read.
        inputs: of the model, shape (B, ...).
        dropping: context of the forward pass.
    """

    def run() -> None:
        with dropping:  # left by what stops the pass: not all of its masks need be reached
            model(inputs)

    return read_while(model, layers, run)


def read_while(model: nn.Module, layers: Sequence[str], run: Callable[[], object]) -> list[Tensor]:
    """Return what layers read while `run` runs a part of the model, each (B, ...); it is stopped behind the last one.

    Args:
        model: left as it was.
        layers: names of modules, in the order in which they read.
        run: runs these layers.
    """
    seen: dict[str, Tensor] = {}

    def note(name: str, read: Tensor) -> None:
        seen[name] = read
        if len(seen) == len(layers):
            raise _Read

    with _follow_child(model, layers, note), suppress(_Read):
        run()
    return [seen[name] for name in layers]


@contextmanager
def _follow_child(model: nn.Module, names: Iterable[str], note: Callable[[str, Tensor], None]) -> Iterator[None]:
    def tell(name: str, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        note(name, inputs[0])

    with ExitStack() as stack:
        for name in names:
            stack.callback(model.get_submodule(name).register_forward_pre_hook(partial(tell, name)).remove)
        yield
