"""precode: makes features random by a variational bottleneck before the last linear layer.

It samples in training, by the client's own generator, and in evaluation, from the scenario's seed. The last linear
layer NAME, last in order of registration, becomes NAME.1, the bottleneck is NAME.0; patterns in
`threat.visible_parameters` and `freeze` must use these names. The divergence is in nats, summed over K, mean over the
batch. Earlier layers' gradients get a random direction per example. The defense's description lists the random tensors
as `unreliable`. The first layer of a dense network leaks a single image whatever follows it. A large beta leaks too:
the divergence does not depend on the noise, so its gradient is deterministic. `noise-inversion` searches for e.

Idea: Gradients of the bottleneck and of later layers are random, and all others get a random scale.
Equation: z = m(h) + d(h) e, e from N(0, 1) in R^K, then features in R^d again; the loss grows by
    beta KL(N(m, d^2) || N(0, 1)).
Assumes: a model that ends in a linear layer, and a server that matches gradients with noise of its own.
Protects: the input from matching without the noise. No guarantee.
Fails: against matching without the random tensors (Balunovic et al. 2022, arXiv 2111.04706), and against a search for
    e together with the input, which uses those tensors too.
Source: Scheliga, Maeder, Seeland 2022, arXiv 2108.04725.
"""

from __future__ import annotations

from typing import ClassVar, final

from pydantic import Field
from torch import nn

from defenses.core.layers import with_module
from defenses.model._variational import VariationalBottleneck, VariationalConfig, VariationalDefense
from fedsim.core.errors import NotApplicable
from fedsim.core.nets.output_layer import output_layer
from fedsim.core.registry import defense


class PrecodeConfig(VariationalConfig):
    """Settings of PRECODE."""

    latent: int = Field(default=256, ge=1, description="latent features K")


@final
class LinearBottleneck(VariationalBottleneck):
    """Maps d features (..., d) through K latent features."""

    def __init__(self, features: int, latent: int) -> None:
        """Build both layers with torch's initialisation of linear layers."""
        super().__init__(nn.Linear(features, 2 * latent), nn.Linear(latent, features), axis=-1)


@final
@defense(
    "precode",
    summary="a variational bottleneck in front of the last linear layer",
    tier="baseline",
    paper="2108.04725",
    fidelity="reproduction",
    paper_steps=(
        ("bottleneck in front of the last linear layer", "Precode.insert"),
        ("latent features from mean and deviation", "defenses.model._variational.moments"),
        ("divergence from the standard normal law", "defenses.model._variational.divergence"),
        ("loss grows by beta times the divergence", "defenses.model._variational.Penalty"),
        ("sampling in training and in evaluation", "defenses.model._variational.VariationalBottleneck.forward"),
    ),
)
class Precode(VariationalDefense[PrecodeConfig]):
    """Replaces the last linear layer NAME by a sequence: NAME.0 is the bottleneck, NAME.1 the layer."""

    kind: ClassVar[type[VariationalBottleneck]] = LinearBottleneck

    def insert(self, model: nn.Module) -> nn.Module:
        """Return the model with the bottleneck before its last linear layer.

        Raises:
            NotApplicable: the model does not end in a linear layer.
        """
        output = output_layer(model)
        if output is None:
            raise NotApplicable("the model does not end in a linear layer")
        name, layer = output
        bottleneck = LinearBottleneck(layer.in_features, self.config.latent).to(layer.weight)
        return with_module(model, name, nn.Sequential(bottleneck, layer))
