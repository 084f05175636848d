"""Causal language models of the transformers package, loaded from a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, float32, nn

from fedsim.checkpoints import quiet
from fedsim.errors import FedsimError, MissingExtra
from fedsim.models._language import TiedHead


class CausalModel(nn.Module):
    """Tokens (B, T) to scores of the next token (B, T, vocabulary), of a model of the transformers package."""

    def __init__(self, own: Any) -> None:
        super().__init__()
        head, embedding = own.get_output_embeddings(), own.get_input_embeddings()
        if head.weight is embedding.weight:
            own.set_output_embeddings(TiedHead(embedding))
        self.own = own

    @property
    def known(self) -> int:
        """Number of tokens that the model has an embedding of."""
        return self.own.get_input_embeddings().num_embeddings

    def forward(self, tokens: Tensor) -> Tensor:
        """Return scores."""
        return self.own(input_ids=tokens, use_cache=False).logits


def causal_model(folder: Path, length: int) -> CausalModel:
    """Load a model in single precision; no code of the folder is run.

    Raises:
        MissingExtra: transformers is not installed.
        FedsimError: it cannot be loaded, or its context is shorter than `length`.
    """
    try:
        from transformers import AutoModelForCausalLM  # noqa: PLC0415 - an extra, and seconds of imports
    except ImportError:
        raise MissingExtra("transformers, which runs real models,", "pip install 'fedsim-privacy[llm]'") from None
    try:
        with quiet():
            own: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                attn_implementation="eager",
                dtype=float32,
            )
    except Exception as error:
        raise FedsimError(f"the checkpoint in {folder} cannot be loaded: {error}") from error
    context = getattr(own.config, "max_position_embeddings", length)
    if length > context:
        raise FedsimError(f"data.length is {length}, expected at most {context}, the context of the model.")
    return CausalModel(own)
