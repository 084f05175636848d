"""noise-inversion: optimise the noise that a defense samples inside the model jointly with the data.

It attacks PRECODE, CVB, and any defense that names modules of N(0, 1) noise in its fact `noise_modules`.

Idea: a variational bottleneck outputs m + d e with e from N(0, 1). Like masks in DIA, e is one more unknown with a
    prior; `noise = "expectation"` sets e = 0 instead.
Equation: min over x, e of 1 - cos(g(x, e), g*) + l_tv TV(x) + l_e mean(e^2) / 2. All tensors are compared, also those
    that a defense calls unreliable: under the right noise they are exact.
Assumes: honest-but-curious server, a single gradient, granted the defenses; their additions to the clients' loss are
    added to the simulated loss. Dropout masks of known rates are searched too; unknown rates are ignored.
Recovers: images, labels, and dropout masks of known rates.
Fails: short searches on convolutions; the expectation where d is large, as at the start of training.
Source: after DIA, arXiv 2208.06163; against PRECODE, arXiv 2108.04725, and CVB, arXiv 2309.04515.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.core.layers import run
from attacks.core.matching.attack import MaskSearchConfig
from attacks.core.matching.known_defense import InformedAttack
from attacks.core.matching.simulated_client import SimulatedClient
from attacks.core.matching.unknowns import NOTHING, Gaussian, Unknowns, Values
from fedsim.core.hooks import Effort, Tables
from fedsim.core.nets.layer_calls import layer_outputs
from fedsim.core.nets.masks import disable_dropout
from fedsim.core.registry import attack
from fedsim.core.types import Masks, Observation, OnStep, Reconstruction, View
from fedsim.core.types.effects import NoiseModules, Penalties

_NOISE = "noise"
_NOISE_RATE = 0.1  # Adam's step for the noise, in standard deviations


class NoiseInversionConfig(MaskSearchConfig):
    """Settings of noise inversion."""

    noise: Literal["joint", "expectation"] = Field(
        default="joint", description="joint: search the noise; expectation: 0"
    )
    noise_weight: float = Field(default=1e-4, ge=0, description="weight l_e of the noise's prior")


@final
@attack(
    "noise-inversion",
    summary="optimises noise inside the model jointly with the data",
    tier="core",
    related="2108.04725",
)
class NoiseInversion(InformedAttack[NoiseInversionConfig]):
    """Replaces the outputs of noise modules by unknowns."""

    effort: ClassVar[Effort] = "descent"
    views: ClassVar[frozenset[View]] = frozenset({"single-update", "sum"})
    example: ClassVar[Tables] = {"defenses": [{"name": "precode", "latent": 16}]}

    def estimate_success(self, observation: Observation) -> tuple[float, str]:
        """Expect more than of descents that ignore the noise."""
        return 0.36, "noise of the model is searched with the data"

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse models without known noise."""
        if not _noise_modules(observation):
            return "no defense in use draws noise inside the model"
        return super().not_applicable(observation)

    def search_batch(
        self, observations: Sequence[Observation], generators: Sequence[torch.Generator], on_steps: Sequence[OnStep]
    ) -> list[Reconstruction]:
        """Search many victims together, including the tensors that other attacks leave out as unreliable."""
        return super().search_batch([_whole(observation) for observation in observations], generators, on_steps)

    def unknowns(self, observations: Sequence[Observation]) -> Unknowns:
        """Return noise and masks as unknowns."""
        config, is_joint = self.config, self.config.noise == "joint"
        noise = Gaussian(
            _NOISE,
            rate=_NOISE_RATE * is_joint,
            shapes=_shapes(observations[0]),
            weight=config.noise_weight,
            is_zero=not is_joint,
        )
        return Unknowns((noise, *super().unknowns(observations).blocks))

    def simulated_client(self, observation: Observation) -> SimulatedClient:
        """Return the simulated client with noise among the unknowns, and penalties in the loss."""
        plain = super().simulated_client(observation)
        penalties = {n: p for effect in observation.effects(Penalties) for n, p in effect.functions.items()}
        added: list[Tensor] = []

        def loss(outputs: Tensor, labels: Tensor) -> Tensor:
            return sum(added, plain.loss(outputs, labels))

        modules = _noise_modules(observation)
        noisy = {"loss": loss, "modules": modules, "penalties": penalties, "penalty_terms": added}
        return _NoisyClient(**{**vars(plain), **noisy})


@dataclass(frozen=True)
class _NoisyClient(SimulatedClient):
    """Forward passes in which modules return the searched noise.

    Attributes:
        modules: names of the modules that return noise.
        penalties: by module name, the function from its output to a penalty of each example, shape (B,).
        penalties: means of the penalties of the latest forward pass; they are added to the loss.
    """

    modules: tuple[str, ...] = ()
    penalties: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict[str, Callable[[Tensor], Tensor]])
    penalty_terms: list[Tensor] = field(default_factory=list[Tensor])

    @contextmanager
    def apply_masks(self, masks: Masks, variables: Values = NOTHING) -> Iterator[None]:
        """Inject masks and noise, and record penalties."""
        self.penalty_terms.clear()
        with ExitStack() as stack:
            stack.enter_context(super().apply_masks(masks))
            for name, noise in zip(self.modules, variables[_NOISE], strict=True):
                hook = self.model.get_submodule(name).register_forward_hook(lambda _m, _i, _o, noise=noise: noise)
                stack.callback(hook.remove)
            for name, penalty in self.penalties.items():
                hook = self.model.get_submodule(name).register_forward_hook(
                    lambda _m, _i, output, penalty=penalty: self.penalty_terms.append(penalty(output).mean())
                )
                stack.callback(hook.remove)
            yield


def _whole(observation: Observation) -> Observation:
    """Return the observation including the tensors that were set aside as unreliable."""
    return replace(
        observation,
        update=replace(observation.update, tensors={**observation.update.tensors, **observation.unreliable_tensors}),
        hidden_parameters=observation.hidden_parameters - observation.unreliable_tensors.keys(),
        unreliable_tensors={},
    )


def _noise_modules(observation: Observation) -> tuple[str, ...]:
    return tuple(name for effect in observation.effects(NoiseModules) for name in effect.names)


@torch.no_grad()
def _shapes(observation: Observation) -> tuple[tuple[int, ...], ...]:
    """Return the shape of each module's noise for one batch."""
    model, names = observation.working_copy(), _noise_modules(observation)
    blank = torch.zeros((observation.batch_size or 1, *observation.spec.shape)).to(next(model.parameters()))
    with disable_dropout(), layer_outputs(model, names) as seen:
        run(model, blank)
    shapes = {name: tuple(noise.shape) for name, noise in seen}
    return tuple(shapes[name] for name in names)
