"""Tiny LLaDA: a bidirectional language model that predicts masked tokens, trained from scratch in minutes.

Paper: Nie et al. 2025, arXiv 2502.09992: Llama's blocks without a causal mask, and no input for the masking rate. A
learned absolute position is added to each token, in addition to rotary positions: without it, tasks that move tokens by
their number are learnt poorly at this size. Leakage: the embedding's gradient has a nonzero row for each visible token;
the output layer's gradient is largest in the rows of masked tokens.
"""

from __future__ import annotations

from functools import partial
from typing import Protocol

from pydantic import Field
from torch import Tensor, nn

from fedsim.core.errors import FedsimError
from fedsim.core.registry import model
from fedsim.core.types import Config, InputSpec
from fedsim.models._language import scores_tokens, text_shape
from fedsim.models._llama_block import LlamaBlock

_STD = 0.02


class TinyLladaConfig(Config):
    """Settings of the tiny LLaDA."""

    dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="probability p of dropping an entry: after the embedding, the softmax, and both parts of a block",
    )
    width: int = Field(default=128, ge=1, description="size of a token, a multiple of twice the heads")
    blocks: int = Field(default=4, ge=1)
    heads: int = Field(default=4, ge=1)
    hidden: int = Field(default=344, ge=1, description="units between the layers of a block's MLP")
    positions: int | None = Field(
        default=None,
        ge=1,
        description="context length in tokens, prompt and text together; unset: the length of an example",
    )
    base: float = Field(default=10_000.0, gt=1, description="base of the rotary positions' wavelengths, in tokens")
    epsilon: float = Field(default=1e-5, gt=0, description="added to the mean square in every norm")

    @property
    def key_value_heads(self) -> int:
        """Number of key and value heads: as many as heads."""
        return self.heads


class Store(Protocol):
    """Cache of keys and values between passes."""

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Store keys and values (B, H, n, F) of new tokens, and return all attended keys and values (B, H, S, F)."""
        ...


@model("tiny-llada", summary="masked diffusion language model of four small Llama blocks", paper="2502.09992")
def tiny_llada(config: TinyLladaConfig, spec: InputSpec) -> nn.Module:
    """Build the model.

    Raises:
        FedsimError: the inputs are not text or too long, labels are not tokens, or the heads do not divide the width.
    """
    length, _ = text_shape(spec, "tiny-llada")
    if not scores_tokens(spec):
        raise FedsimError(
            "model 'tiny-llada' scores tokens, and the labels are none. Choose a data set for 'masked-diffusion'."
        )
    if config.width % (2 * config.heads):
        raise FedsimError(
            f"model 'tiny-llada' has {config.heads} heads and width {config.width}: expected a width that is a "
            f"multiple of {2 * config.heads}."
        )
    if config.positions is not None and config.positions < length:
        raise FedsimError(
            f"model 'tiny-llada' reads {config.positions} tokens, and an example has {length}. Raise model.positions "
            "or lower data.length."
        )
    return TinyLlada(config, spec)


class TinyLlada(nn.Module):
    """Tokens (B, T) to logits of the token at each position (B, T, vocabulary); the mask token has no logit.

    Attributes:
        mask_token: token at masked positions; its number is the size of the vocabulary.
        context: context length in tokens, for prompt and text.
        padding_token: token that pads short examples; None without padding.
    """

    def __init__(self, config: TinyLladaConfig, spec: InputSpec) -> None:
        super().__init__()
        length, vocabulary = text_shape(spec, "tiny-llada")
        self.mask_token, self.padding_token = vocabulary, spec.padding
        self.context = config.positions or length
        self.embed_tokens = nn.Embedding(vocabulary + 1, config.width)
        self.embed_positions = nn.Embedding(self.context, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(LlamaBlock(config) for _ in range(config.blocks))
        self.norm = nn.RMSNorm(config.width, eps=config.epsilon)
        self.lm_head = nn.Linear(config.width, vocabulary, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=_STD)

    def forward(self, tokens: Tensor, masked: Tensor | None = None) -> Tensor:
        """Return logits, with bidirectional attention.

        Args:
            tokens: shape (B, T); may contain the mask token.
            masked: positions (B, T) to mask, whatever their token.
        """
        if masked is not None:
            tokens = tokens.masked_fill(masked, self.mask_token)
        hidden = self.dropout(self.embed_tokens(tokens) + self.embed_positions.weight[: tokens.shape[1]])
        for block in self.layers:
            hidden = block(hidden, attention_mask=None)
        return self.lm_head(self.norm(hidden))

    def read(self, tokens: Tensor, positions: Tensor, store: Store) -> Tensor:
        """Return logits (B, n, vocabulary) of some positions, which attend to the store's keys and values.

        Args:
            tokens: shape (B, n).
            positions: their positions in the text, shape (B, n).
            store: receives the keys and values of each layer, and returns the keys and values of all attended
                positions.
        """
        hidden = self.dropout(self.embed_tokens(tokens) + self.embed_positions(positions))
        for number, block in enumerate(self.layers):
            update_cache = partial(store.update, layer=number)
            hidden = block(hidden, attention_mask=None, positions=positions, cache=update_cache)
        return self.lm_head(self.norm(hidden))

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.layers)
