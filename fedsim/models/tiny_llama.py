"""Tiny Llama: a causal language model, or tagger, built from plain modules and trained from scratch in minutes.

Paper: Touvron et al. 2023, arXiv 2302.13971: pre-norm blocks with RMSNorm x / rms(x) g, rotary positions (arXiv
2104.09864), SwiGLU silu(W1 x) * W3 x (arXiv 2002.05202), keys and values shared by groups of heads (arXiv 2305.13245).
Modules have the names of the transformers package. Leakage: the rows of the first query weight's gradient lie in the
span of the normed embeddings of the batch's tokens, and the embedding's gradient has a nonzero row for each of them.
"""

from __future__ import annotations

from functools import partial

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.core.errors import FedsimError
from fedsim.core.nets.kv_cache import KVCache, LayerStack
from fedsim.core.nets.kv_cache.stack import is_listened_to
from fedsim.core.registry import model
from fedsim.core.types import Config, InputSpec
from fedsim.models._language import TaggingHead, TiedHead, matrix_of, scores_tokens, text_shape
from fedsim.models._llama_block import LlamaBlock

_STD = 0.02


class TinyLlamaConfig(Config):
    """Settings of the tiny Llama."""

    dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="probability p of dropping an entry: after the embedding, the softmax, and both parts of a block",
    )
    width: int = Field(default=128, ge=1, description="size of a token, a multiple of the heads")
    blocks: int = Field(default=2, ge=1)
    heads: int = Field(default=4, ge=1)
    key_value_heads: int = Field(default=2, ge=1, description="heads of keys and values, a divisor of the heads")
    hidden: int = Field(default=256, ge=1, description="units between the layers of a block's MLP")
    base: float = Field(default=10_000.0, gt=1, description="base of the rotary positions' wavelengths, in tokens")
    epsilon: float = Field(default=1e-5, gt=0, description="added to the mean square in every norm")
    tied: bool = Field(default=False, description="whether the output layer is the embedding")


@model("tiny-llama", summary="causal language model of two small Llama blocks", paper="2302.13971")
def tiny_llama(config: TinyLlamaConfig, spec: InputSpec) -> nn.Module:
    """Build the model.

    Raises:
        FedsimError: the inputs are not text, the heads do not divide the width, or a tagger is tied.
    """
    text_shape(spec, "tiny-llama")
    if config.width % (2 * config.heads) or config.heads % config.key_value_heads:
        raise FedsimError(
            f"model 'tiny-llama' has {config.heads} heads, {config.key_value_heads} of keys and values, and width "
            f"{config.width}: expected a width that is a multiple of {2 * config.heads}, and key_value_heads that "
            "divide the heads."
        )
    if config.tied and not scores_tokens(spec):
        raise FedsimError("model 'tiny-llama' is tied, but tags need their own output layer. Leave out model.tied.")
    return TinyLlama(config, spec)


class TinyLlama(nn.Module):
    """Tokens (B, T) to logits of the next token (B, T, vocabulary), or of each token's tag (B, T, K).

    Attributes:
        padding_token: token that pads short examples, for bidirectional attention; None without padding.
    """

    def __init__(self, config: TinyLlamaConfig, spec: InputSpec) -> None:
        super().__init__()
        vocabulary = spec.vocabulary or 0
        self.padding_token = spec.padding
        self.embed_tokens = nn.Embedding(vocabulary, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(LlamaBlock(config) for _ in range(config.blocks))
        self.norm = nn.RMSNorm(config.width, eps=config.epsilon)
        if not scores_tokens(spec):
            self.lm_head = TaggingHead(config.width, spec.classes)
        elif config.tied:
            self.lm_head = TiedHead(self.embed_tokens)
        else:
            self.lm_head = nn.Linear(config.width, vocabulary, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=_STD)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits; attention is causal, so padding at the end has no effect."""
        hidden = self.dropout(self.embed_tokens(tokens))
        length = tokens.shape[1]
        causal_mask = torch.full((1, 1, length, length), -torch.inf, dtype=hidden.dtype, device=hidden.device).triu(1)
        for block in self.layers:
            hidden = block(hidden, attention_mask=causal_mask)
        return self.lm_head(self.norm(hidden))

    def stack(self) -> LayerStack | None:
        """Return the layers; None if hooks are attached to the model as a whole."""
        return None if is_listened_to(self) else _Layers(self)


class _Layers:
    """The layers of a tiny Llama, run separately."""

    def __init__(self, tiny: TinyLlama) -> None:
        self._tiny = tiny

    @property
    def depth(self) -> int:
        return len(self._tiny.layers)

    def embed(self, tokens: Tensor) -> Tensor:
        return self._tiny.dropout(self._tiny.embed_tokens(tokens))

    def place(self, hidden: Tensor, positions: Tensor) -> Tensor:
        return positions

    def layer(self, number: int, hidden: Tensor, place: Tensor, mask: Tensor | None, store: KVCache) -> Tensor:
        update_cache = partial(store.update, layer=number)
        return self._tiny.layers[number](hidden, attention_mask=mask, positions=place, cache=update_cache)

    def norm(self, hidden: Tensor) -> Tensor:
        return self._tiny.norm(hidden)

    @property
    def weight(self) -> Tensor | None:
        return None if is_listened_to(self._tiny.lm_head, self._tiny.norm) else matrix_of(self._tiny.lm_head)

    def score(self, hidden: Tensor) -> Tensor:
        return self._tiny.lm_head(self._tiny.norm(hidden))
