"""A causal language model, or tagger, from a local Hugging Face folder: nothing is downloaded, and no code in it runs.

Source: the transformers package (Wolf et al. 2020, arXiv 1910.03771). Weights are read from safetensors alone. What it
may leak: a trained model memorises, and its embedding's gradient names the words of a batch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import Field
from torch import Tensor, float32, nn

from fedsim.errors import FedsimError, MissingExtra
from fedsim.models._language import TaggingHead, TiedHead, text_shape
from fedsim.registry import model
from fedsim.types import Config, InputSpec


class HuggingFaceConfig(Config):
    """Settings of hugging-face; component `dropout` sets the rate of models that have dropout."""

    path: Path = Field(description="folder with config.json and *.safetensors; data.tokenizer names the same one")


@model("hugging-face", summary="causal language model from a local checkpoint folder", paper="1910.03771", extra="llm")
def hugging_face(config: HuggingFaceConfig, spec: InputSpec) -> nn.Module:
    """Load the model, in single precision.

    Raises:
        MissingExtra: transformers is not installed.
        FedsimError: no such folder, weights in another format, a checkpoint that wants to run code, a tokenizer of
            another model, or examples longer than the model's context.
    """
    length, vocabulary = text_shape(spec, "hugging-face")
    _check_folder(config.path)
    try:
        from transformers import AutoModelForCausalLM  # noqa: PLC0415 - an extra, and seconds of imports
    except ImportError:
        raise MissingExtra("transformers, which runs real models,", "pip install 'fedsim-privacy[llm]'") from None
    try:
        own: Any = AutoModelForCausalLM.from_pretrained(
            config.path,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            attn_implementation="eager",
            dtype=float32,
        )
    except Exception as error:
        raise FedsimError(f"the checkpoint in {config.path} cannot be loaded: {error}") from error
    known, context = own.get_input_embeddings().num_embeddings, getattr(own.config, "max_position_embeddings", length)
    if vocabulary > known:
        raise FedsimError(
            f"the tokenizer has {vocabulary} tokens and the model in {config.path} only {known}: it is that of another "
            f'model. Set data.tokenizer = "{config.path}".'
        )
    if length > context:
        raise FedsimError(f"data.length is {length}, expected at most {context}, the context of the model.")
    return CausalModel(own, spec)


class CausalModel(nn.Module):
    """Tokens (B, T) to scores of the next token (B, T, vocabulary), or of each token's tag (B, T, K).

    Args:
        own: a model of the transformers package; where labels are tags, its output layer is replaced.
        spec: of the examples.

    Attributes:
        padding_token: what fills up a short example, for who lets tokens see those behind them; None when nothing does.
    """

    def __init__(self, own: Any, spec: InputSpec) -> None:
        super().__init__()
        head, embedding = own.get_output_embeddings(), own.get_input_embeddings()
        if not spec.labels_are_text:
            own.set_output_embeddings(TaggingHead(head.weight.shape[1], spec.classes))
        elif head.weight is embedding.weight:
            own.set_output_embeddings(TiedHead(embedding))
        self.own = own
        self.padding_token = spec.padding

    def forward(self, tokens: Tensor) -> Tensor:
        """Return scores."""
        return self.own(input_ids=tokens, use_cache=False).logits


def _check_folder(path: Path) -> None:
    settings = path / "config.json"
    if not settings.is_file():
        raise FedsimError(f"there is no {settings}: expected the folder of a Hugging Face checkpoint.")
    try:
        wants_code = "auto_map" in json.loads(settings.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FedsimError(f"{settings} is no JSON: {error}") from error
    if wants_code:
        raise FedsimError(f"the checkpoint in {path} wants to run code of its own (auto_map), which fedsim never does.")
    if not any(path.glob("*.safetensors")):
        raise FedsimError(
            f"{path} holds no .safetensors file. Other formats can run code when they are read: save the model with "
            "model.save_pretrained(folder)."
        )
