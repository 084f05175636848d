"""transfer-head: replaces the model's output layer by a new head and trains only the head (transfer learning).

Idea: A backbone trained on public data serves many tasks; only the last few linear layers are new.
Equation: y = W_k relu(.. relu(W_1 f(x) + b_1) ..) + b_k with f frozen; the update contains only the W and b.
Assumes: a model whose last layer with weights is linear. `model.checkpoint` loads weights, with a head of this form.
Leaks: the head's inputs, i.e. features of examples; pixels as far as the features determine them.
Fails: as a defense: features can be inverted to images (attack `head-inversion`).
Source: none; common practice.
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar, final

from pydantic import Field
from torch import Generator, nn, randint

from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import ANYTHING, Layer
from fedsim.core.nets.output_layer import output_layer
from fedsim.core.registry import component
from fedsim.core.seeding import isolate_randomness
from fedsim.core.types import Config, Modality

_SEEDS = 2**62


class TransferHeadConfig(Config):
    """Settings of the head."""

    layers: int = Field(default=2, ge=1, description="linear layers of the head")
    width: int = Field(default=256, ge=1, description="units of each layer except the last, with ReLU")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="probability p of dropping such a unit")


@final
@component("transfer-head", summary="trains a new head alone, behind a frozen backbone", tier="research")
class TransferHead(Layer[TransferHeadConfig]):
    """Replaces the last linear layer by a multi-layer head, and freezes all other parameters."""

    modalities: ClassVar[frozenset[Modality]] = ANYTHING

    def prepare(self, model: nn.Module, generator: Generator) -> nn.Module:
        """Return `model` with the new head; all other parameters are frozen.

        Raises:
            NotApplicable: the last layer with weights is not linear, or the model is that layer.
        """
        output = output_layer(model)
        if output is None or not output[0]:
            raise NotApplicable("component 'transfer-head': the model does not end with a linear layer of its own.")
        name, last = output
        model.requires_grad_(False)
        with isolate_randomness(int(randint(_SEEDS, (), generator=generator))):
            model.set_submodule(name, self._head(last.in_features, last.out_features))
        return model

    def _head(self, features: int, outputs: int) -> nn.Module:
        config, layers = self.config, list[nn.Module]()
        for inputs, units in pairwise([features, *[config.width] * (config.layers - 1)]):
            layers += [nn.Linear(inputs, units), nn.ReLU(), nn.Dropout(config.dropout)]
        return nn.Sequential(*layers, nn.Linear(config.width if layers else features, outputs))
