"""soteria: zeroes the last layer's gradient columns of the features that reveal most about the input.

Exactly the stated share of columns is zero, ties in order. |r_f| replaces r_f, which the paper's code uses, since
features may be negative. Attacks that know the defense leave the tensor out, and still infer labels from it: the other
tensors are exact, so the objective is that without the defense.

Idea: Hide the input information of the features in a single tensor; all other tensors, and the layer's bias, stay
    exact.
Equation: s_f = sum over examples of ||d r_f / dx|| / (|r_f| + 0.1), r the input of the last linear layer; the columns
    of the smallest s_f become zero.
Assumes: a model that ends in a trained linear layer over one vector per example. It costs a backward pass per feature.
Protects: details of the input, from a server that sees a single gradient and does not know the defense. No guarantee.
Fails: against matching that leaves out the layer's weight (Balunovic et al. 2022, arXiv 2111.04706).
Source: Sun et al. 2021, arXiv 2012.06043; the score of its published code. Equation 10 of the paper zeroes the
    features of largest ||r_f (d r_f / dx)^-1||.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from pydantic import Field
from torch import Tensor, nn

from defenses.core.inside import outputs_of, weight_of
from defenses.core.support import count_dropped
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import Defense, Distortion, HookContext, LocalStep, Place, PublicFederation
from fedsim.core.nets.layer_calls import layer_inputs
from fedsim.core.nets.output_layer import output_layer
from fedsim.core.registry import defense
from fedsim.core.types import Config, MethodDescription, Tensors
from fedsim.core.types.effects import UnreliableTensors

_OFFSET = 0.1
_VECTORS = 2


class SoteriaConfig(Config):
    """Settings of Soteria."""

    rate: float = Field(default=0.4, ge=0, le=1, description="share of the features with columns set to zero")


@final
@defense(
    "soteria",
    summary="zeroes the gradient of the most telling features (Soteria)",
    tier="baseline",
    paper="2012.06043",
    fidelity="variant",
    deviates="the score is that of its published code, not of its equation 10",
    paper_steps=(
        ("score of each feature, as in the published code", "telling_scores"),
        ("columns of the last layer's weight gradient become zero", "Soteria.on_gradient"),
        ("score of equation 10, by the inverse of the features' derivative", ""),
    ),
)
class Soteria(Defense[SoteriaConfig]):
    """Zeroes columns of one tensor in every local step."""

    place: ClassVar[Place] = "layers"
    needs_step: ClassVar[bool] = True

    def __init__(self, config: SoteriaConfig) -> None:
        """Start without a layer; `prepare` finds it."""
        super().__init__(config)
        self._layer: str | None = None

    def refuses(self, federation: PublicFederation, model: nn.Module) -> str | None:
        """Refuse models that do not end in a trained linear layer."""
        return (
            None
            if _trained_output_layer(model) is not None
            else "the model does not end in a linear layer that is trained"
        )

    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Store the layer's name, which is public, and return the model unchanged."""
        self._layer = _trained_output_layer(model)
        return model

    def on_gradient(self, gradient: Tensors, context: HookContext) -> Tensors:
        """Return the gradient without the columns of the most revealing features."""
        local = context.local
        layer = None if local is None else _trained_output_layer(local.model)
        if local is None or layer is None or not len(local.batch):
            return gradient
        weight = gradient[weight_of(layer)].clone()
        telling = telling_scores(local, layer).argsort(stable=True)[: count_dropped(weight.shape[1], self.config.rate)]
        weight[:, telling] = 0.0
        return {**gradient, weight_of(layer): weight}

    def describe_distortion(self, federation: PublicFederation, sent: Tensors) -> Distortion:
        """Return the projection on the sent entries."""
        support = {name: tensor != 0 for name, tensor in sent.items()}
        return Distortion(
            change=lambda tensors: {n: t * support[n].to(t.dtype) for n, t in tensors.items()}, reads_sent=True
        )

    def adaptive_view(self) -> MethodDescription:
        """Return the rate, and the name of the changed tensor."""
        changed = () if self._layer is None or not self.config.rate else (UnreliableTensors((weight_of(self._layer),)),)
        return MethodDescription("soteria", changed, {"rate": self.config.rate})


def _trained_output_layer(model: nn.Module) -> str | None:
    output = output_layer(model)
    return output[0] if output is not None and output[1].weight.requires_grad else None


def telling_scores(local: LocalStep, layer: str) -> Tensor:
    """Return s_f of every feature, shape (D,); a smaller score reveals more.

    Args:
        local: a step with at least one example.
        layer: name of the linear layer with the features as input.

    Raises:
        FedsimError: the layer has more than one input vector per example.
    """
    inputs = local.batch.inputs.detach().clone().requires_grad_()
    with layer_inputs(local.model, [layer]) as seen:
        outputs_of(local, inputs)
    features = seen[-1][1]
    if features.ndim != _VECTORS:
        raise FedsimError(f"soteria: the input of '{layer}' has shape {tuple(features.shape)}, expected a vector "
                "per example. Choose a model with a vector as input of its last layer.")  # fmt: skip
    slopes = [
        torch.autograd.grad(feature.sum(), inputs, retain_graph=True, materialize_grads=True)[0]
        for feature in features.unbind(1)
    ]
    norms = torch.stack([slope.flatten(1).norm(dim=1) for slope in slopes], 1)
    return (norms / (features.detach().abs() + _OFFSET)).sum(0)
