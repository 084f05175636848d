"""Any classification architecture of torchvision, with random weights.

Source: torchvision (no arXiv id; each architecture has its own paper). Grey images are repeated to three channels,
since these architectures need colour images. Leakage: depends on the architecture. Batch normalisation adds batch
statistics as a second unknown. Stochastic depth (ConvNeXt, EfficientNet, Swin) is random but not a dropout mask, so no
attack here receives it.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.core.errors import FedsimError, did_you_mean
from fedsim.core.registry import model
from fedsim.core.types import Config, InputSpec
from fedsim.models._inputs import image_shape

_COLOURS = 3
# Auxiliary heads would turn the output into a tuple; without init_weights torchvision warns.
_WITHOUT_AUXILIARY_HEADS = {"aux_logits": False, "init_weights": False}
_SPECIAL = {"googlenet": _WITHOUT_AUXILIARY_HEADS, "inception_v3": _WITHOUT_AUXILIARY_HEADS}


class TorchvisionConfig(Config):
    """Settings of a torchvision classifier."""

    classifier: str = Field(default="squeezenet1_1", min_length=1, description="name for torchvision.models.get_model")
    dropout: float | None = Field(
        default=None, ge=0, lt=1, description="probability p of dropping an entry; the architecture's own when absent"
    )


@model("torchvision", summary="any classification architecture of torchvision, random weights")
def torchvision(config: TorchvisionConfig, spec: InputSpec) -> nn.Module:
    """Build the architecture.

    Raises:
        FedsimError: no such architecture, a rate for an architecture without the argument `dropout`, inputs that are
            neither grey nor colour images, or a size that the architecture cannot process.
    """
    channels, height, width = image_shape(spec, "torchvision")
    if channels not in (1, _COLOURS):
        raise FedsimError(f"model 'torchvision' reads images of 1 or {_COLOURS} channels, got {channels}.")
    network = _network(config, spec.classes)
    _check_size(network, config.classifier, height, width)
    return network if channels == _COLOURS else nn.Sequential(_GreyToColour(), network)


def _network(config: TorchvisionConfig, classes: int) -> nn.Module:
    from torchvision import models  # noqa: PLC0415

    known = models.list_models(module=models)
    if config.classifier not in known:
        raise FedsimError(
            f"torchvision has no classifier '{config.classifier}'.{did_you_mean(config.classifier, known)}"
        )
    settings: dict[str, Any] = dict(_SPECIAL.get(config.classifier, {}))
    if config.dropout is not None:
        settings["dropout"] = config.dropout
    try:
        return models.get_model(config.classifier, weights=None, num_classes=classes, **settings)
    except TypeError as error:
        if "dropout" not in str(error):
            raise
        raise FedsimError(
            f"torchvision's '{config.classifier}' has no argument dropout. Leave model.dropout out, or choose a "
            "classifier that has it, for example mobilenet_v3_small, efficientnet_b0 or vit_b_16."
        ) from error


def _check_size(network: nn.Module, classifier: str, height: int, width: int) -> None:
    """Run a forward pass on the meta device, which checks shapes without arithmetic.

    Raises:
        FedsimError: the architecture cannot process images of this size.
    """
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    shapes_only = {name: tensor.to("meta") for name, tensor in tensors.items()}
    try:
        torch.func.functional_call(network, shapes_only, torch.empty(2, _COLOURS, height, width, device="meta"))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise FedsimError(
            f"torchvision's '{classifier}' cannot process {height} x {width} pixels ({error}). Set data.size, for "
            "example to 224, or choose another classifier."
        ) from error


class _GreyToColour(nn.Module):
    """Repeat the channel of images (B, 1, H, W) three times."""

    def forward(self, images: Tensor) -> Tensor:
        return images.expand(-1, _COLOURS, -1, -1)
