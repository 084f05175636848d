"""Loading of a model's weights from a file, without executing code in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from fedsim.core.errors import FedsimError, ScenarioError
from fedsim.core.nets.tensor_files import read_npz, read_saved


def load_checkpoint(model: nn.Module, path: Path) -> None:
    """Load the weights of a file into a model.

    Raises:
        ScenarioError: the file is missing, contains something else, or does not fit the model.
    """
    weights = _read_weights(path)
    strangers = [name for name in weights if not isinstance(name, str) or not isinstance(weights[name], Tensor)]
    if strangers:
        raise ScenarioError(
            f"model.checkpoint: {path} holds {type(weights[strangers[0]]).__name__} at '{strangers[0]}', expected "
            "tensors by name: a state dict, as torch.save(model.state_dict(), path) writes it."
        )
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        why = " ".join(str(error).split())
        raise ScenarioError(f"model.checkpoint: {path} does not fit the model: {why}") from error


def _read_weights(path: Path) -> dict[Any, Any]:
    """Read a state dict without executing code in the file."""
    if not path.is_file():
        raise ScenarioError(f"model.checkpoint: no file {path}.")
    try:
        content = read_npz(path) if path.suffix == ".npz" else read_saved(path)
    except FedsimError as error:
        raise ScenarioError(f"model.checkpoint: {error}") from error
    if not isinstance(content, dict):
        raise ScenarioError(
            f"model.checkpoint: {path} holds a {type(content).__name__}, expected a state dict of tensors by name, as "
            "torch.save(model.state_dict(), path) writes it."
        )
    return cast("dict[Any, Any]", content)
