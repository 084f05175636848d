"""Dropout: h <- h m / (1 - p), m ~ Bernoulli(1 - p) for every entry and example.

Paper: Srivastava et al. 2014, JMLR 15; inverted form. What it may leak: the masks hide nothing from an attacker
who estimates them together with the data (arXiv 2208.06163), and their zeros help closed forms.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from pydantic import Field
from torch import nn

from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import IMAGES_AND_TEXT, Layer
from fedsim.core.registry import component
from fedsim.core.types import Config, Modality


class DropoutConfig(Config):
    """Settings of dropout."""

    rate: float = Field(
        default=0.25, ge=0, lt=1, description="probability p of dropping an entry, at every dropout layer"
    )


@final
@component("dropout", summary="one rate for every dropout layer of the model", paper="Srivastava 2014")
class Dropout(Layer[DropoutConfig]):
    """Sets the rate of the dropout layers that a model already has, attention included."""

    modalities: ClassVar[frozenset[Modality]] = IMAGES_AND_TEXT

    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Return `model` with the new rate.

        Raises:
            NotApplicable: the model has no dropout layer.
        """
        layers = [m for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
        attentions = [m for m in model.modules() if isinstance(m, nn.MultiheadAttention)]
        if not layers and not attentions:
            raise NotApplicable("component 'dropout': the model has no dropout layer whose rate could be set.")
        for layer in layers:
            layer.p = self.config.rate
        for attention in attentions:
            attention.dropout = self.config.rate
        return model
