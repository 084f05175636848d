"""Loader of a low-rank adapter saved by package peft; it runs no code from the folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedsim.core import registry
from fedsim.core.errors import FedsimError, MissingExtra, first_line

_SETTINGS, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_FACTOR = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<side>[AB])\.weight")
_PATTERNS = ("rank_pattern", "alpha_pattern")


def with_adapter(model: nn.Module, folder: Path) -> nn.Module:
    """Return a model with the adapter of a folder, which `fedsim.components.core.low_rank` can remove again.

    Args:
        model: model that the adapter was trained on, in evaluation mode; it is changed.
        folder: contains adapter_config.json and adapter_model.safetensors.

    Raises:
        MissingExtra: safetensors is not installed.
        FedsimError: the folder contains no plain LoRA adapter, or the adapter of another model.
    """
    settings, factors = _settings(folder), _factors(folder)
    layers = {layer: _layer_of(model, layer, folder) for layer, _ in factors}
    method = registry.get("component", "lora")
    config = method.config.model_validate(
        {
            "targets": tuple(layers.values()),
            "rank": settings["r"],
            "alpha": settings["lora_alpha"],
            "scaling": "root-rank" if settings.get("use_rslora") else "rank",
        }
    )
    adapted: nn.Module = method.make(config).prepare(model, torch.Generator())
    named = {f"{layers[layer]}.lora_{side.lower()}.weight": factor for (layer, side), factor in factors.items()}
    try:
        unknown = adapted.load_state_dict(named, strict=False).unexpected_keys
    except RuntimeError as error:
        raise FedsimError(f"the adapter in {folder} is of a model of other sizes: {first_line(error)}") from error
    assert not unknown, "every layer has both factors"
    return adapted.eval()


def _settings(folder: Path) -> Mapping[str, Any]:
    path = folder / _SETTINGS
    if not path.is_file():
        raise FedsimError(f"no {path}: expected the folder of an adapter that package peft saved.")
    try:
        settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kind, _ = settings["peft_type"], (settings["r"], settings["lora_alpha"])
    except (ValueError, KeyError, TypeError) as error:
        raise FedsimError(f"{path} lacks the LoRA settings that package peft writes: {first_line(error)}.") from error
    uneven = [name for name in _PATTERNS if settings.get(name)]
    if kind != "LORA" or uneven:
        problem = f"has a {uneven[0]}" if kind == "LORA" else f"is of kind {kind}"
        raise FedsimError(
            f"the adapter in {folder} {problem}: expected LoRA with the same rank and alpha for all layers."
        )
    return settings


def _factors(folder: Path) -> dict[tuple[str, str], Tensor]:
    """Return the factors A and B of each layer, by layer name and side."""
    try:
        from safetensors.torch import load_file  # noqa: PLC0415 - an extra
    except ImportError:
        raise MissingExtra("safetensors, which reads weights,", "pip install 'fedsim-privacy[llm]'") from None
    path = folder / _WEIGHTS
    try:
        tensors = load_file(path)
    except Exception as error:
        raise FedsimError(f"{path} cannot be read: {first_line(error)}") from error
    factors: dict[tuple[str, str], Tensor] = {}
    for name, tensor in tensors.items():
        match = _FACTOR.fullmatch(name)
        if match is None:
            raise FedsimError(f"{path} holds '{name}', which is no factor of LoRA. Train and save the factors alone.")
        factors[match["layer"], match["side"]] = tensor.float()
    unpaired = [layer for layer, side in factors if (layer, "B" if side == "A" else "A") not in factors]
    if unpaired or not factors:
        raise FedsimError(
            f"{path} lacks a factor of layer '{unpaired[0]}'." if unpaired else f"{path} holds no factors."
        )
    return factors


def _layer_of(model: nn.Module, layer: str, folder: Path) -> str:
    """Return the name of a layer in the model, in which peft's model may be a submodule."""
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    matching = [name for name in layers if name == layer or name.endswith(f".{layer}")]
    if len(matching) == 1:
        return matching[0]
    raise FedsimError(
        f"the adapter in {folder} belongs to a layer '{layer}', which the model does not have. Give --model the model "
        "that it was trained on."
    )
