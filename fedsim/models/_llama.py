"""Run transformers models with Llama's architecture layer by layer."""

from __future__ import annotations

from functools import cache
from inspect import signature
from typing import Any

from torch import Tensor

from fedsim.core.nets.kv_cache import KVCache
from fedsim.core.nets.kv_cache.stack import is_listened_to
from fedsim.models._language import matrix_of

_KINDS = {"llama", "mistral", "qwen2", "qwen3"}  # architectures with Llama's layers between embedding and output layer
_CHANGING = {"dynamic", "longrope"}  # types of rotary positions that depend on the text length
_KEEPERS = ("cache", "past_key_values", "past_key_value")  # names of a layer's cache argument, by release

_ATTENTION = "_attn_implementation_internal"


def is_like_llama(model: Any) -> bool:
    """Return whether a model can be run layer by layer: full attention, and length-independent rotary positions."""
    return (
        model.config.model_type in _KINDS
        and not getattr(model.config, "sliding_window", None)
        and getattr(model.model.rotary_emb, "rope_type", "default") not in _CHANGING
    )


@cache
def _keeper(layer: Any) -> str:
    names = signature(layer.forward).parameters
    return next(name for name in _KEEPERS if name in names)


class LlamaLayers:
    """The layers of a transformers model."""

    def __init__(self, model: Any) -> None:
        self._model, self._inner, self._head = model, model.model, model.get_output_embeddings()
        self._keeper = _keeper(type(self._inner.layers[0]))

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self._inner.layers)

    def embed(self, tokens: Tensor) -> Tensor:
        """Return the token embeddings."""
        return self._inner.embed_tokens(tokens)

    def place(self, hidden: Tensor, positions: Tensor) -> Any:
        """Return the cosines and sines of rotary positions."""
        return self._inner.rotary_emb(hidden, position_ids=positions)

    def layer(self, number: int, hidden: Tensor, place: Any, mask: Tensor | None, store: KVCache) -> Tensor:
        """Run a layer with fused attention, faster than the model's own twice-differentiable attention."""
        config = vars(self._model.config)  # bypasses the property, which costs a hundredth of a pass
        before, config[_ATTENTION] = config[_ATTENTION], "sdpa"
        try:
            output = self._inner.layers[number](
                hidden, attention_mask=mask, position_embeddings=place, use_cache=True, **{self._keeper: store}
            )
        finally:
            config[_ATTENTION] = before
        return output[0] if isinstance(output, tuple) else output  # older releases return a tuple

    def norm(self, hidden: Tensor) -> Tensor:
        """Return the input of the output layer."""
        return self._inner.norm(hidden)

    @property
    def weight(self) -> Tensor | None:
        """The output layer's matrix; None if it does more, or if hooks are attached."""
        return None if is_listened_to(self._head, self._inner.norm) else matrix_of(self._head)

    def score(self, hidden: Tensor) -> Tensor:
        """Return the logits."""
        return self._head(self._inner.norm(hidden))
