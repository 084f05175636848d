"""Networks with several samples of dropout."""

from typing import Any

import torch
from torch import Tensor, nn

from fedsim.core import registry
from fedsim.core.hooks import ModelComponent
from fedsim.core.nets.masks import record_masks
from fedsim.core.types import Masks

METHOD = registry.get("component", "multi-sample-dropout")
RATE, WIDTH, CLASSES = 0.5, 12, 3


def component(**settings: Any) -> ModelComponent[Any]:
    return METHOD.make(METHOD.config.model_validate(settings))


def drawn(model: nn.Module, inputs: Tensor, seed: int = 0) -> tuple[Tensor, tuple[Any, ...], Masks]:
    with record_masks(model, torch.Generator().manual_seed(seed)) as recording:
        outputs = model(inputs)
    return outputs, tuple(recording.sites), tuple(recording.masks)
