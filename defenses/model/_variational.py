"""Variational bottlenecks, for PRECODE and its convolutional version.

Statistics s = encode(x) of 2 K features give mean m and standard deviation d = softplus(.). The latent is z = m + d e,
with new e from N(0, 1) in every forward pass, in training and evaluation. The model continues with decode(z).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, TypeVar, cast, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fedsim.core import seeding
from fedsim.core.hooks import Defense, HookContext, Place
from fedsim.core.types import Batch, Config, MethodDescription, Tensors
from fedsim.core.types.effects import Effect, NoiseModules, Penalties, UnreliableTensors


@final
class StandardNormal(nn.Module):
    """Returns independent N(0, 1) noise in the shape of its input.

    Attributes:
        generator: source of the noise; None for torch's global generator.
    """

    def __init__(self) -> None:
        super().__init__()
        self.generator: torch.Generator | None = None

    def forward(self, like: Tensor) -> Tensor:
        """Return fresh noise."""
        return torch.randn(like.shape, generator=self.generator, dtype=like.dtype).to(like.device)


class VariationalBottleneck(nn.Module):
    """A bottleneck with random latent features.

    Attributes:
        observed: list that records the statistics of forward passes, for a loss; None to record none.
        axis: axis of the statistics.
        limit: statistics of the standard deviation are clipped to [-limit, limit].
    """

    def __init__(self, encode: nn.Module, decode: nn.Module, *, axis: int, limit: float = torch.inf) -> None:
        """Store the layers before and after the latent features.

        Args:
            encode: maps features to 2 K statistics.
            decode: maps K latent features back.
            axis: see the class.
            limit: see the class.
        """
        super().__init__()
        self.encode, self.noise, self.decode = encode, StandardNormal(), decode
        self.observed: list[Tensor] | None = None
        self.axis, self.limit = axis, limit

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape, through a random z."""
        mean, deviation = moments(statistics := self.encode(features), self.axis, self.limit)
        if self.observed is not None:
            self.observed.append(statistics)
        return self.decode(mean + deviation * self.noise(mean))


def moments(statistics: Tensor, axis: int, limit: float) -> tuple[Tensor, Tensor]:
    """Return the means and standard deviations of statistics."""
    mean, raw = statistics.chunk(2, axis)
    return mean, F.softplus(raw.clamp(-limit, limit))


def divergence(mean: Tensor, deviation: Tensor) -> Tensor:
    """Return KL(N(m, d^2) || N(0, 1)) in nats, summed over latent features, per example, shape (B,).

    Args:
        mean: m, shape (B, ...).
        deviation: d, the standard deviation (not its logarithm, not the variance), same shape.
    """
    terms = -0.5 * (1.0 + 2.0 * deviation.log() - mean.square() - deviation.square())
    return terms.flatten(1).sum(1)


@dataclass(frozen=True)
class Penalty:
    """The loss term of a bottleneck: beta times the divergence of its statistics."""

    axis: int
    limit: float
    beta: float

    def __call__(self, statistics: Tensor) -> Tensor:
        """Return one value per example, shape (B,)."""
        return self.beta * divergence(*moments(statistics, self.axis, self.limit))


class VariationalConfig(Config):
    """Settings of both bottlenecks."""

    beta: float = Field(default=1e-3, ge=0, description="weight of the KL divergence (nats per example) in the loss")


ConfigT = TypeVar("ConfigT", bound=VariationalConfig)


class VariationalDefense(Defense[ConfigT]):
    """A defense by a bottleneck in the model. Subclasses implement `insert`."""

    place: ClassVar[Place] = "model"
    needs_step: ClassVar[bool] = True
    kind: ClassVar[type[VariationalBottleneck]]

    def __init__(self, config: ConfigT) -> None:
        """Start without a model; `prepare` inserts the bottleneck."""
        super().__init__(config)
        self._effects: tuple[Effect, ...] = ()

    @abstractmethod
    def insert(self, model: nn.Module) -> nn.Module:
        """Return the model with one bottleneck of this kind."""

    @final
    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Return the model with the bottleneck, and store its public names.

        Raises:
            NotApplicable: the model has no layer for it.
        """
        with seeding.isolate_randomness(generator.initial_seed()):
            model = self.insert(model)
        place = next(name for name, module in model.named_modules() if isinstance(module, self.kind))
        bottleneck = cast("VariationalBottleneck", model.get_submodule(place))
        names = [name for name, _ in model.named_parameters()]
        first = next(index for index, name in enumerate(names) if name.startswith(f"{place}."))
        penalty = Penalty(bottleneck.axis, bottleneck.limit, self.config.beta)
        self._effects = (
            NoiseModules((f"{place}.noise",)),
            Penalties({f"{place}.encode": penalty}),
            UnreliableTensors(tuple(names[first:])),
        )
        return model

    @final
    def on_batch(self, batch: Batch, context: HookContext) -> Batch:
        """Make the next forward pass draw from `here.generator` and record its statistics."""
        for bottleneck in self._bottlenecks(context):
            bottleneck.noise.generator, bottleneck.observed = context.generator, []
        return batch

    @final
    def loss(self, outputs: Tensor, context: HookContext) -> Tensor | None:
        """Return beta times the divergence of the forward pass, mean over the examples."""
        terms = [
            Penalty(layer.axis, layer.limit, self.config.beta)(statistics).mean()
            for layer in self._bottlenecks(context)
            for statistics in layer.observed or ()
        ]
        return torch.stack(terms).sum() if terms else None

    @final
    def on_gradient(self, gradient: Tensors, context: HookContext) -> Tensors:
        """Return the gradient unchanged, and stop recording: later forward passes belong to no step."""
        for bottleneck in self._bottlenecks(context):
            bottleneck.noise.generator = bottleneck.observed = None
        return gradient

    @final
    def adaptive_view(self) -> MethodDescription:
        """Return the noise modules, the loss term, and the parameters with random gradients."""
        return MethodDescription(type(self).__name__.lower(), self._effects, {"beta": self.config.beta})

    def _bottlenecks(self, context: HookContext) -> list[VariationalBottleneck]:
        model = nn.Module() if context.local is None else context.local.model
        return [cast("VariationalBottleneck", module) for module in model.modules() if isinstance(module, self.kind)]
