"""A language model as its layers, so that they can be run one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable
from weakref import WeakSet

from torch import Tensor, nn

from fedsim.core.past.key_values import KeyValues

HookT = TypeVar("HookT", bound=Callable[..., Any])
_WATCHES: WeakSet[Callable[..., Any]] = WeakSet()


class LayerStack(Protocol):
    """Embedding, layers, and output layer of a causal language model. Layers are numbered from 0."""

    @property
    def depth(self) -> int:
        """How many layers it has."""
        ...

    def embed(self, tokens: Tensor) -> Tensor:
        """Return the hidden states (B, T, width) in front of the first layer, of tokens (B, T)."""
        ...

    def place(self, hidden: Tensor, positions: Tensor) -> Any:
        """Return what every layer is told of positions (B, T)."""
        ...

    def layer(self, number: int, hidden: Tensor, place: Any, mask: Tensor | None, store: KeyValues) -> Tensor:
        """Return what a layer makes of hidden states (B, T, width).

        Args:
            number: of the layer.
            hidden: what comes out of the layer before, or of one further down where layers are skipped.
            place: see `place`.
            mask: added to the scores of attention, shape (B or 1, 1, T, S); None where nothing is hidden.
            store: its `update` takes the keys and values (B, H, T, F), and returns those of all S tokens.
        """
        ...

    def score(self, hidden: Tensor) -> Tensor:
        """Return the scores (..., V) of the next token: the last norm and the output layer."""
        ...


@runtime_checkable
class Weighted(Protocol):
    """A stack whose scores are products with a matrix, so that those of some tokens cost less than all."""

    @property
    def weight(self) -> Tensor | None:
        """A row (width,) for each token; None where the output layer does more than multiply."""
        ...

    def norm(self, hidden: Tensor) -> Tensor:
        """Return what is multiplied with it, of hidden states (..., width)."""
        ...


@runtime_checkable
class Layered(Protocol):
    """A model that can be taken apart."""

    def stack(self) -> LayerStack | None:
        """Return its layers; None where something is attached to the model as a whole, which they would not run."""
        ...


def stack_of(model: nn.Module) -> LayerStack | None:
    """Return a model's layers; None where they are not known."""
    return model.stack() if isinstance(model, Layered) else None


def only_watches(hook: HookT) -> HookT:
    """Note of a model's hook that it changes nothing, so that the layers may be run without it."""
    _WATCHES.add(hook)
    return hook


def is_listened_to(*modules: nn.Module) -> bool:
    """Say whether hooks that do more than watch are attached to a module, which running its layers would pass by."""
    hooks = (hook for one in modules for hook in (*one._forward_hooks.values(), *one._forward_pre_hooks.values()))
    return any(hook not in _WATCHES for hook in hooks)
