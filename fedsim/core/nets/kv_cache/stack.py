"""Layer-wise interface of language models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable
from weakref import WeakSet

from torch import Tensor, nn

from fedsim.core.foreign import pytorch
from fedsim.core.nets.kv_cache.key_values import KVCache

HookT = TypeVar("HookT", bound=Callable[..., Any])
_WATCHES: WeakSet[Callable[..., Any]] = WeakSet()


class LayerStack(Protocol):
    """Embedding, layers, and output layer of a causal language model. Layers are numbered from 0."""

    @property
    def depth(self) -> int:
        """Number of layers."""
        ...

    def embed(self, tokens: Tensor) -> Tensor:
        """Return the hidden states (B, T, width) before the first layer, for tokens (B, T)."""
        ...

    def place(self, hidden: Tensor, positions: Tensor) -> Any:
        """Return the layers' position inputs for positions (B, T)."""
        ...

    def layer(self, number: int, hidden: Tensor, place: Any, mask: Tensor | None, store: KVCache) -> Tensor:
        """Return a layer's output for hidden states (B, T, width).

        Args:
            number: index of the layer.
            hidden: output of the preceding layer, or of an earlier layer if layers are skipped.
            place: result of `place`.
            mask: added to the attention scores, shape (B or 1, 1, T, S); None if nothing is masked.
            store: its `update` stores the keys and values (B, H, T, F), and returns those of all S tokens.
        """
        ...

    def score(self, hidden: Tensor) -> Tensor:
        """Return the next-token scores (..., V): last norm and output layer."""
        ...


@runtime_checkable
class Weighted(Protocol):
    """A stack whose scores are products with a matrix, so that scores of a few tokens cost less."""

    @property
    def weight(self) -> Tensor | None:
        """Output embedding, a row (width,) per token; None if the output layer is no plain product."""
        ...

    def norm(self, hidden: Tensor) -> Tensor:
        """Return the factor that is multiplied with the weight, for hidden states (..., width)."""
        ...


@runtime_checkable
class Layered(Protocol):
    """A model with separable layers."""

    def stack(self) -> LayerStack | None:
        """Return its layers; None if a hook on the whole model would be bypassed by running them."""
        ...


def stack_of(model: nn.Module) -> LayerStack | None:
    """Return a model's layers; None if unknown."""
    return model.stack() if isinstance(model, Layered) else None


def only_watches(hook: HookT) -> HookT:
    """Register a hook as read-only, so that layers may be run without it."""
    _WATCHES.add(hook)
    return hook


def is_listened_to(*modules: nn.Module) -> bool:
    """Return whether a module has hooks, other than read-only hooks, that running its layers would bypass."""
    return any(hook not in _WATCHES for module in modules for hook in pytorch.forward_hooks(module))
