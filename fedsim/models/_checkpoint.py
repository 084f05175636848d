"""Load causal language models of the transformers package from a folder."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, float32, nn

from fedsim.core.errors import FedsimError, MissingExtra, first_line
from fedsim.core.nets.checkpoints import quiet
from fedsim.core.nets.kv_cache import LayerStack
from fedsim.core.nets.kv_cache.stack import is_listened_to
from fedsim.core.types import InputSpec
from fedsim.models._language import TaggingHead, TiedHead, scores_tokens
from fedsim.models._llama import LlamaLayers, is_like_llama


class CausalModel(nn.Module):
    """Tokens (B, T) to logits of the next token (B, T, vocabulary), or of each token's tag (B, T, K).

    Args:
        wrapped: a transformers model; if labels are tags, its output layer is replaced.
        spec: shape and labels of the examples.

    Attributes:
        padding_token: token that pads short examples, for bidirectional attention; None without padding.
    """

    def __init__(self, wrapped: Any, spec: InputSpec) -> None:
        super().__init__()
        head, embedding = wrapped.get_output_embeddings(), wrapped.get_input_embeddings()
        if not scores_tokens(spec):
            wrapped.set_output_embeddings(TaggingHead(head.weight.shape[1], spec.classes))
        elif head.weight is embedding.weight:
            wrapped.set_output_embeddings(TiedHead(embedding))
        self.own = wrapped
        self.padding_token = spec.padding

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens in the model's embedding."""
        return self.own.get_input_embeddings().num_embeddings

    @property
    def context(self) -> int | None:
        """Context length of the model in tokens, or None."""
        return getattr(self.own.config, "max_position_embeddings", None)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits."""
        return self.own(input_ids=tokens, use_cache=False).logits

    def stack(self) -> LayerStack | None:
        """Return the layers; None for layers unlike Llama's, or if hooks are attached to the model as a whole."""
        if not is_like_llama(self.own) or is_listened_to(self, self.own, self.own.model):
            return None
        return LlamaLayers(self.own)

    def generate_greedy(self, tokens: Tensor, length: int) -> Tensor:
        """Return a greedy continuation, tokens (B, length).

        Args:
            tokens: prefixes (B, t) of equal length t >= 1.
            length: number of new tokens; an end-of-text token does not stop generation.
        """
        from transformers import DynamicCache  # noqa: PLC0415 - an extra, and slow to import

        keeper = (
            "cache" if "cache" in signature(self.own.forward).parameters else "past_key_values"
        )  # older name of dtype
        kept: dict[str, Any] = {keeper: DynamicCache(), "use_cache": True, "logits_to_keep": 1}
        written = [tokens[:, :0]]
        with torch.inference_mode():
            for _ in range(length):
                written.append(self.own(input_ids=tokens, **kept).logits[:, -1].argmax(-1, keepdim=True))
                tokens = written[-1]
        return torch.cat(written, 1)


def load(kind: str, folder: Path, **settings: Any) -> Any:
    """Load a transformers model in single precision, without running code from the folder.

    Args:
        kind: name of the package's class for the model's task.
        folder: folder of the checkpoint.
        settings: values that replace the checkpoint's configuration.

    Raises:
        MissingExtra: transformers is not installed.
        FedsimError: the checkpoint cannot be loaded.
    """
    try:
        import transformers  # noqa: PLC0415 - an extra, and slow to import
    except ImportError:
        raise MissingExtra("transformers, which runs real models,", "pip install 'fedsim-privacy[llm]'") from None
    try:
        with quiet():
            return getattr(transformers, kind).from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                attn_implementation="eager",
                dtype=float32,
                **settings,
            )
    except Exception as error:
        raise FedsimError(f"the checkpoint in {folder} cannot be loaded: {first_line(error)}") from error


def causal_model(folder: Path, spec: InputSpec) -> CausalModel:
    """Load a causal language model, or tagger.

    Raises:
        MissingExtra: transformers is not installed.
        FedsimError: the checkpoint cannot be loaded, or its context is shorter than an example of `spec`.
    """
    wrapped = load("AutoModelForCausalLM", folder)
    length = spec.shape[0]
    context = getattr(wrapped.config, "max_position_embeddings", length)
    if length > context:
        raise FedsimError(f"data.length is {length}, expected at most {context}, the context of the model.")
    return CausalModel(wrapped, spec)
