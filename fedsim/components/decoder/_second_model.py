"""Loader of a decoder's second model, by registered name or from a checkpoint folder."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from fedsim.core import registry
from fedsim.core.nets import checkpoints
from fedsim.core.types import InputSpec


def second_model(name: str, vocabulary: int) -> nn.Module:
    """Return a model in evaluation mode.

    Args:
        name: name of a model, or folder of a Hugging Face checkpoint.
        vocabulary: vocabulary size, for a model given by name.

    Raises:
        MissingExtra: a package is not installed.
        FedsimError: unknown model.
    """
    folder = checkpoints.smollm2() if name == checkpoints.SMOLLM2 else Path(name)
    if folder.is_dir():  # placeholder vocabulary of 1: the checkpoint contains the size
        method, settings, vocabulary = registry.get("model", "hugging-face"), {"path": folder}, 1
    else:
        method, settings = registry.get("model", name), {}
    spec = InputSpec((1,), vocabulary, (), (), vocabulary=vocabulary)
    return method.make(method.config.model_validate(settings), spec).eval()
