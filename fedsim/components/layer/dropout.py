"""dropout: sets the rate of the model's dropout layers.

Idea: Random masks keep units from relying on other specific units.
Equation: h <- h m / (1 - p), m ~ Bernoulli(1 - p) for every entry and example
Assumes: a model with dropout layers, attention included.
Leaks: masks do not protect from an attacker that optimises them with the data (arXiv 2208.06163); their zeros help
    closed-form attacks.
Fails: as a defense.
Source: Srivastava et al. 2014, JMLR 15; inverted form.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from pydantic import Field
from torch import nn

from fedsim.core.errors import NotApplicable
from fedsim.core.foreign import pytorch
from fedsim.core.hooks import ANYTHING, Layer
from fedsim.core.registry import component
from fedsim.core.types import Config, Modality


class DropoutConfig(Config):
    """Settings of dropout."""

    rate: float = Field(
        default=0.25, ge=0, lt=1, description="probability p of dropping an entry, at every dropout layer"
    )


@final
@component(
    "dropout",
    summary="sets the rate of all dropout layers of the model",
    tier="core",
    paper="Srivastava 2014",
    fidelity="reproduction",
    paper_steps=(("rate of every dropout layer; torch draws and scales the masks", "Dropout.prepare"),),
)
class Dropout(Layer[DropoutConfig]):
    """Sets the rate of the model's dropout layers, including dropout in attention."""

    modalities: ClassVar[frozenset[Modality]] = ANYTHING

    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Return `model` with the new rate.

        Raises:
            NotApplicable: the model has no dropout layer.
        """
        layers = [m for m in model.modules() if isinstance(m, pytorch.Dropout)]
        attentions = [m for m in model.modules() if isinstance(m, nn.MultiheadAttention)]
        if not layers and not attentions:
            raise NotApplicable("component 'dropout': the model has no dropout layer. Remove the component.")
        for layer in layers:
            layer.p = self.config.rate
        for attention in attentions:
            attention.dropout = self.config.rate
        return model
