"""The layers of the transformers package's models of Llama's kind, one by one."""

from __future__ import annotations

from functools import cache
from inspect import signature
from typing import Any

from torch import Tensor

from fedsim.core.past import KeyValues
from fedsim.core.past.stack import is_listened_to
from fedsim.models._language import matrix_of

_KINDS = {"llama", "mistral", "qwen2", "qwen3"}  # whose layers do what Llama's do between embedding and output layer
_CHANGING = {"dynamic", "longrope"}  # rotary positions that depend on the length of the whole text
_KEEPERS = ("cache", "past_key_values", "past_key_value")  # names that releases gave to the argument of a layer

_ATTENTION = "_attn_implementation_internal"


def is_like_llama(model: Any) -> bool:
    """Say whether a model's layers can be run one by one: full attention, with positions that rotate evenly."""
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
    """The layers of a model of the transformers package."""

    def __init__(self, model: Any) -> None:
        self._model, self._inner, self._head = model, model.model, model.get_output_embeddings()
        self._keeper = _keeper(type(self._inner.layers[0]))

    @property
    def depth(self) -> int:
        """How many layers it has."""
        return len(self._inner.layers)

    def embed(self, tokens: Tensor) -> Tensor:
        """Return the embedding."""
        return self._inner.embed_tokens(tokens)

    def place(self, hidden: Tensor, positions: Tensor) -> Any:
        """Return cosines and sines."""
        return self._inner.rotary_emb(hidden, position_ids=positions)

    def layer(self, number: int, hidden: Tensor, place: Any, mask: Tensor | None, store: KeyValues) -> Tensor:
        """Run a layer, with fused attention: the model's own is one that can be differentiated twice, and slower."""
        config = vars(self._model.config)  # past its property, which takes a hundredth of a pass
        before, config[_ATTENTION] = config[_ATTENTION], "sdpa"
        try:
            output = self._inner.layers[number](
                hidden, attention_mask=mask, position_embeddings=place, use_cache=True, **{self._keeper: store}
            )
        finally:
            config[_ATTENTION] = before
        return output[0] if isinstance(output, tuple) else output  # older releases return a tuple

    def norm(self, hidden: Tensor) -> Tensor:
        """Return what the output layer reads."""
        return self._inner.norm(hidden)

    @property
    def weight(self) -> Tensor | None:
        """The output layer, where it is a matrix and nothing else."""
        return None if is_listened_to(self._head, self._inner.norm) else matrix_of(self._head)

    def score(self, hidden: Tensor) -> Tensor:
        """Return the scores."""
        return self._head(self._inner.norm(hidden))
