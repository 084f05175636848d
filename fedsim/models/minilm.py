"""MiniLM: all-MiniLM-L6-v2, a trained sentence encoder of 6 BERT blocks, 384 wide, from a package.

Papers: Wang et al. 2020, arXiv 2002.10957 (the model), and Reimers, Gurevych 2019, arXiv 1908.10084 (the mean over
tokens as embedding). It has 22.6 million parameters, 30,522 tokens, and dropout of 0.1 in every block. Leakage: the
embedding's gradient has a nonzero row for each token of the batch.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import Tensor, nn

from fedsim.core.errors import FedsimError
from fedsim.core.nets import checkpoints
from fedsim.core.registry import model
from fedsim.core.types import Config, InputSpec
from fedsim.models._checkpoint import load
from fedsim.models._encoder import is_word, mean_pooled, sentence_shape

_POSITIONS = 512


class MiniLmConfig(Config):
    """Settings of MiniLM."""

    dropout: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="probability p of dropping an entry: after the embedding, the softmax, and both parts of a block",
    )


@model("minilm", summary="trained sentence encoder of 6 BERT blocks", paper="2002.10957", extra="llm")
def minilm(config: MiniLmConfig, spec: InputSpec) -> nn.Module:
    """Load the model, in single precision.

    Raises:
        MissingExtra: a package is not installed.
        FedsimError: the inputs are not text, have labels or are longer than the context; the tokenizer belongs to
            another
            model; or the weights cannot be read.
    """
    _, vocabulary = sentence_shape(spec, checkpoints.MINILM, _POSITIONS)
    rates = {"hidden_dropout_prob": config.dropout, "attention_probs_dropout_prob": config.dropout}
    encoder = MiniLm(load("AutoModel", checkpoints.minilm(), add_pooling_layer=False, **rates), spec)
    known = encoder.own.get_input_embeddings().num_embeddings
    if vocabulary != known:
        raise FedsimError(
            f"model '{checkpoints.MINILM}' has {known} tokens, the tokenizer {vocabulary}: they belong to different "
            f'models. Set data.tokenizer = "{checkpoints.MINILM}".'
        )
    return encoder


class MiniLm(nn.Module):
    """Tokens (B, T) to embeddings (B, 384).

    Args:
        wrapped: a transformers model.
        spec: shape and labels of the examples.

    Attributes:
        width: size of an embedding.
        longest: context length in tokens.
        padding_token: token that pads short sentences; None without padding.
    """

    def __init__(self, wrapped: Any, spec: InputSpec) -> None:
        super().__init__()
        self.own = wrapped
        self.width, self.longest, self.padding_token = int(wrapped.config.hidden_size), _POSITIONS, spec.padding

    def forward(self, tokens: Tensor) -> Tensor:
        """Return embeddings; padding does not change them."""
        counts = is_word(tokens, self.padding_token)
        hidden = self.own(input_ids=tokens, attention_mask=counts.long()).last_hidden_state
        return mean_pooled(hidden, counts)
