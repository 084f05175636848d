"""freeze: excludes chosen parameters from training, so their gradients are not sent.

Idea: Fine-tuning often needs only part of a model.
Equation: w_f <- w_f, and the update has no entry for w_f
Assumes: patterns that match parameters, and a remaining trainable parameter.
Leaks: no gradient of the frozen layers. Attacks that use the first layer's gradient fail if it is frozen; attacks on
    other layers work as before.
Fails: as a defense of the layers that are trained.
Source: none; common practice.
"""

from __future__ import annotations

import fnmatch
from typing import ClassVar, final

import torch
from pydantic import Field
from torch import nn

from fedsim.core.errors import NotApplicable, did_you_mean
from fedsim.core.hooks import ANYTHING, Layer
from fedsim.core.registry import component
from fedsim.core.types import Config, Modality


class FreezeConfig(Config):
    """Settings of freezing."""

    parameters: tuple[str, ...] = Field(
        min_length=1, description="name patterns of the parameters to freeze", examples=[("*.bias",)]
    )


@final
@component("freeze", summary="keeps named parameters out of training", tier="core")
class Freeze(Layer[FreezeConfig]):
    """Excludes parameters from training."""

    modalities: ClassVar[frozenset[Modality]] = ANYTHING

    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Return `model` with the matching parameters frozen.

        Raises:
            NotApplicable: a pattern matches no parameter, or no trainable parameter remains.
        """
        names = [name for name, _ in model.named_parameters()]
        for pattern in self.config.parameters:
            matching = fnmatch.filter(names, pattern)
            if not matching:
                raise NotApplicable(
                    f"component 'freeze': no parameter matches '{pattern}'.{did_you_mean(pattern, names)}"
                )
            for name in matching:
                model.get_parameter(name).requires_grad_(False)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise NotApplicable("component 'freeze': no parameter is left to train.")
        return model
