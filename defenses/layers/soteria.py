"""Soteria: the last layer's weight gradient loses the columns of features that tell most about the input.

With r the input of the last linear layer, s_f = sum over examples of ||d r_f / dx|| / (|r_f| + 0.1); the columns of the
smallest s_f become zero. No other tensor is changed, nor the layer's bias.
Paper: Sun et al. 2021, arXiv 2012.06043, equation 10 (features of largest ||r_f (d r_f / dx)^-1||). As many backward
passes as features. Broken by leaving the layer's weight out of the match (Balunovic et al. 2022, arXiv 2111.04706).
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from pydantic import Field
from torch import Tensor, nn

from defenses.core.inside import outputs_of, weight_of
from defenses.core.support import dropped
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import Defense, Here, LocalStep, Place, Rules
from fedsim.core.layer_calls import layer_inputs
from fedsim.core.output_layer import output_layer
from fedsim.core.registry import defense
from fedsim.core.types import Config, PublicKnowledge, Tensors

_OFFSET = 0.1
_VECTORS = 2


class SoteriaConfig(Config):
    """Settings of Soteria."""

    rate: float = Field(default=0.4, ge=0, le=1, description="share of the features whose columns become zero")


@final
@defense("soteria", summary="hides the last layer's most telling features (Soteria)", paper="2012.06043")
class Soteria(Defense[SoteriaConfig]):
    """Zeroes columns of one tensor, at every local step."""

    place: ClassVar[Place] = "layers"
    needs_step: ClassVar[bool] = True

    def __init__(self, config: SoteriaConfig) -> None:
        """Know no model yet."""
        super().__init__(config)
        self._layer: str | None = None

    def refuses(self, rules: Rules, model: nn.Module) -> str | None:
        """Refuse models whose last layer is no trained linear one."""
        return (
            None
            if _trained_output_layer(model) is not None
            else "the model does not end in a linear layer that is trained"
        )

    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Note the layer's name, which is public, and leave the model as it is."""
        self._layer = _trained_output_layer(model)
        return model

    def on_gradient(self, gradient: Tensors, here: Here) -> Tensors:
        """Return the gradient without the columns of the most telling features."""
        local = here.local
        layer = None if local is None else _trained_output_layer(local.model)
        if local is None or layer is None or not len(local.batch):
            return gradient
        weight = gradient[weight_of(layer)].clone()
        telling = telling_scores(local, layer).argsort(stable=True)[: dropped(weight.shape[1], self.config.rate)]
        weight[:, telling] = 0.0
        return {**gradient, weight_of(layer): weight}

    def adaptive_view(self) -> PublicKnowledge:
        """Return the rate, and the tensor that is changed."""
        unreliable = () if self._layer is None or not self.config.rate else (weight_of(self._layer),)
        return PublicKnowledge("soteria", {"rate": self.config.rate, "unreliable": unreliable})


def _trained_output_layer(model: nn.Module) -> str | None:
    found = output_layer(model)
    return found[0] if found is not None and found[1].weight.requires_grad else None


def telling_scores(local: LocalStep, layer: str) -> Tensor:
    """Return s_f of every feature, shape (D,); the smaller, the more it tells.

    Args:
        local: with at least one example.
        layer: name of the linear layer that sees the features.

    Raises:
        FedsimError: the layer sees more than one vector an example.
    """
    inputs = local.batch.inputs.detach().clone().requires_grad_()
    with layer_inputs(local.model, [layer]) as seen:
        outputs_of(local, inputs)
    features = seen[-1][1]
    if features.ndim != _VECTORS:
        raise FedsimError(f"soteria: '{layer}' sees features of shape {tuple(features.shape)}, expected one vector an "
                          "example. Choose a model whose last layer sees vectors.")  # fmt: skip
    slopes = [
        torch.autograd.grad(feature.sum(), inputs, retain_graph=True, materialize_grads=True)[0]
        for feature in features.unbind(1)
    ]
    norms = torch.stack([slope.flatten(1).norm(dim=1) for slope in slopes], 1)
    return (norms / (features.detach().abs() + _OFFSET)).sum(0)
