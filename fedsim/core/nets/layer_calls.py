"""Recording of layer inputs and outputs in a forward pass of any torch model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial

from torch import Tensor, nn


class _Read(Exception):
    """Raised when all requested layers were called."""


@contextmanager
def layer_inputs(model: nn.Module, names: Iterable[str]) -> Iterator[list[tuple[str, Tensor]]]:
    """Record (name, first input) of each call of these modules, in call order, not detached."""
    seen: list[tuple[str, Tensor]] = []
    with _follow_child(model, names, lambda name, inputs: seen.append((name, inputs))):
        yield seen


@contextmanager
def layer_outputs(model: nn.Module, names: Iterable[str]) -> Iterator[list[tuple[str, Tensor]]]:
    """Record (name, output) of each call of these modules, in call order, not detached."""
    seen: list[tuple[str, Tensor]] = []

    def note(name: str, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        seen.append((name, output))

    with ExitStack() as stack:
        for name in names:
            stack.callback(model.get_submodule(name).register_forward_hook(partial(note, name)).remove)
        yield seen


@contextmanager
def inputs_in_order(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> Iterator[list[tuple[str, Tensor]]]:
    """Record (name, first input) of each call of a module of these types, in call order, detached."""
    seen: list[tuple[str, Tensor]] = []
    names = [name for name, module in model.named_modules() if isinstance(module, kinds)]
    with _follow_child(model, names, lambda name, inputs: seen.append((name, inputs.detach()))):
        yield seen


def read_by(
    model: nn.Module, layers: Sequence[str], inputs: Tensor, dropping: AbstractContextManager[None]
) -> list[Tensor]:
    """Return the inputs of layers, each (B, ...); the forward pass stops at the last layer.

    Args:
        model: the model, restored afterwards.
        layers: names of modules, in call order.
        inputs: model inputs, shape (B, ...).
        dropping: context of the forward pass.
    """

    def run() -> None:
        with dropping:  # inside `run`, because the pass ends early and may not reach all masks
            model(inputs)

    return read_while(model, layers, run)


def read_while(model: nn.Module, layers: Sequence[str], run: Callable[[], object]) -> list[Tensor]:
    """Return layer inputs during a partial forward pass `run`, each (B, ...); it stops at the last layer.

    Args:
        model: the model, restored afterwards.
        layers: names of modules, in call order.
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
