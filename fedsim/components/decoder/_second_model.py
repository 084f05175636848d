"""A second model that a decoder asks beside the one that it is given: by name, or from a checkpoint's folder."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from fedsim.core import checkpoints, registry
from fedsim.core.types import InputSpec


def second_model(name: str, vocabulary: int) -> nn.Module:
    """Return a model in evaluation mode.

    Args:
        name: of a model, or a folder with a Hugging Face checkpoint.
        vocabulary: tokens of a model that is given by name.

    Raises:
        MissingExtra: a package is not installed.
        FedsimError: there is no such model.
    """
    folder = checkpoints.smollm2() if name == checkpoints.SMOLLM2 else Path(name)
    if folder.is_dir():  # as if of one token: the checkpoint says how many it has
        method, settings, vocabulary = registry.get("model", "hugging-face"), {"path": folder}, 1
    else:
        method, settings = registry.get("model", name), {}
    spec = InputSpec((1,), vocabulary, (), (), vocabulary=vocabulary)
    return method.make(method.config.model_validate(settings), spec).eval()
