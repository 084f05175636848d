"""A causal language model, or tagger, from a local Hugging Face folder, without downloads and without running its code.

Source: the transformers package (Wolf et al. 2020, arXiv 1910.03771). Weights are read only from safetensors. Leakage:
a trained model memorises, and its embedding's gradient reveals the words of a batch.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import Field
from torch import nn

from fedsim.core.errors import FedsimError
from fedsim.core.registry import model
from fedsim.core.types import Config, InputSpec
from fedsim.models._checkpoint import causal_model
from fedsim.models._language import text_shape


class HuggingFaceConfig(Config):
    """Settings of hugging-face; component `dropout` sets the rate of models with dropout."""

    path: Path = Field(
        description="folder with config.json and *.safetensors; data.tokenizer must name the same folder"
    )


@model("hugging-face", summary="causal language model from a local checkpoint folder", paper="1910.03771", extra="llm")
def hugging_face(config: HuggingFaceConfig, spec: InputSpec) -> nn.Module:
    """Load the model, in single precision.

    Raises:
        MissingExtra: transformers is not installed.
        FedsimError: no such folder, weights in another format, a checkpoint with its own code, a tokenizer of another
            model, or examples longer than the model's context.
    """
    _, vocabulary = text_shape(spec, "hugging-face")
    _check_folder(config.path)
    loaded = causal_model(config.path, spec)
    if vocabulary > loaded.vocabulary_size:
        raise FedsimError(
            f"the tokenizer has {vocabulary} tokens, the model in {config.path} only {loaded.vocabulary_size}: they "
            f'belong to different models. Set data.tokenizer = "{config.path}".'
        )
    return loaded


def _check_folder(path: Path) -> None:
    settings = path / "config.json"
    if not settings.is_file():
        raise FedsimError(f"no {settings}: expected the folder of a Hugging Face checkpoint.")
    try:
        wants_code = "auto_map" in json.loads(settings.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FedsimError(f"{settings} is not JSON: {error}") from error
    if wants_code:
        raise FedsimError(
            f"the checkpoint in {path} wants to run its own code (auto_map), which fedsim never "
            "does. For LLaDA and Dream use model 'masked-checkpoint'."
        )
    if not any(path.glob("*.safetensors")):
        raise FedsimError(
            f"{path} holds no .safetensors file. Other formats can run code when they are read: save the model with "
            "model.save_pretrained(folder)."
        )
