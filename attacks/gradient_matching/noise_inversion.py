"""noise-inversion: optimise the noise that a defense draws inside the model together with the data.

Idea: a variational bottleneck passes on m + d e with e from N(0, 1). As DIA does with masks, e is one more unknown
    under its prior; or `noise = "expectation"` takes e = 0.
Equation: min over x, e of 1 - cos(g(x, e), g*) + l_tv TV(x) + l_e mean(e^2) / 2. All tensors are compared, also those
    that a defense calls unreliable: under the right noise they are exact.
Assumes: honest-but-curious server, one gradient, granted the defenses; what these add to the clients' loss is added to
    the simulated loss. Dropout masks of known rates are searched too; unknown rates are ignored.
Recovers: images, labels, and dropout masks of known rates.
Fails: short searches on convolutions; the expectation where d is large, as at the start of training.
Source: after DIA, arXiv 2208.06163; against PRECODE, arXiv 2108.04725, and CVB, arXiv 2309.04515.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.core.defense_facts import searched_sites
from attacks.core.layers import run
from attacks.gradient_matching._comparison import Setting
from attacks.gradient_matching._engine import Found, Search
from attacks.gradient_matching._known_defense import InformedAttack
from attacks.gradient_matching._unknowns import Masking, unknown_masks
from attacks.gradient_matching.base import MatchingConfig
from fedsim.core.layer_calls import layer_outputs
from fedsim.core.masks import without_dropout
from fedsim.core.registry import attack
from fedsim.core.types import Masks, Observation, OnStep, Reconstruction, View


class NoiseInversionConfig(MatchingConfig):
    """Settings of noise inversion."""

    noise: Literal["joint", "expectation"] = Field(
        default="joint", description="joint: search the noise; expectation: 0"
    )
    noise_weight: float = Field(default=1e-4, ge=0, description="weight l_e of the noise's prior")
    noise_learning_rate: float = Field(
        default=0.1, gt=0, description="Adam's step for the noise, in standard deviations"
    )
    mask_weight: float = Field(default=1e-4, ge=0, description="weight of the mask prior, as in DIA")


@final
@attack("noise-inversion", summary="optimises noise inside the model jointly with the data", related="2108.04725")
class NoiseInversion(InformedAttack[NoiseInversionConfig]):
    """Replaces the outputs of noise modules by unknowns."""

    views: ClassVar[frozenset[View]] = frozenset({"single-update", "sum"})

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse models without known noise."""
        if not _noise_modules(observation):
            return "no defense in use draws noise inside the model"
        return super().not_applicable(observation)

    def search_together(
        self, observations: Sequence[Observation], generators: Sequence[torch.Generator], on_steps: Sequence[OnStep]
    ) -> list[Reconstruction]:
        """Search on many victims at once, including the tensors that other attacks leave out as unreliable."""
        return super().search_together([_whole(observation) for observation in observations], generators, on_steps)

    def plan(self, observations: Sequence[Observation]) -> Search:
        """Optimise inputs, masks and noise together."""
        first = observations[0]
        sites = searched_sites(first)
        masks = unknown_masks(sites, len(observations), self.config.mask_weight)
        is_joint = self.config.noise == "joint"
        noise = _shapes(first)
        unknowns = _Unknowns(masks, noise, self.config.noise_weight, is_zero=not is_joint)
        steps = [self.config.learning_rate] * len(sites) + [self.config.noise_learning_rate * is_joint] * len(noise)
        return Search(unknowns, self.first(observations), self.smoothness, sites=sites, rates=tuple(steps))

    def setting(self, observation: Observation, search: Search) -> Setting:
        """Return the setting with noise among the unknowns, and penalties in the loss."""
        plain = super().setting(observation, search)
        penalties = {n: p for known in observation.public for n, p in known.facts.get("penalties", {}).items()}
        added: list[Tensor] = []

        def loss(outputs: Tensor, labels: Tensor) -> Tensor:
            return sum(added, plain.loss(outputs, labels))

        modules = _noise_modules(observation)
        noisy = {"loss": loss, "modules": modules, "penalties": penalties, "added": added}
        return _NoisySetting(**{**vars(plain), **noisy})

    def reported(self, observation: Observation, rows: Sequence[Found], labels: Tensor, path: str) -> Reconstruction:
        """Report the masks without the noise that follows them."""
        for row in rows:
            row.masks = row.masks[: len(searched_sites(observation))]
        return super().reported(observation, rows, labels, path)


@dataclass(frozen=True)
class _NoisySetting(Setting):
    """Forward passes with masks, followed by the outputs of the noise modules.

    Attributes:
        modules: names of the modules that return noise.
        penalties: by name of a module, what its output adds to each example's loss, shape (B,).
        added: means of the penalties of the latest forward pass; they go into the loss.
    """

    modules: tuple[str, ...] = ()
    penalties: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict[str, Callable[[Tensor], Tensor]])
    added: list[Tensor] = field(default_factory=list[Tensor])

    @contextmanager
    def dropping(self, masks: Masks) -> Iterator[None]:
        """Put masks and noise in place, and watch for penalties."""
        cut = len(masks) - len(self.modules)
        self.added.clear()
        with ExitStack() as stack:
            stack.enter_context(super().dropping(masks[:cut]))
            for name, noise in zip(self.modules, masks[cut:], strict=True):
                hook = self.model.get_submodule(name).register_forward_hook(lambda _m, _i, _o, noise=noise: noise)
                stack.callback(hook.remove)
            for name, penalty in self.penalties.items():
                hook = self.model.get_submodule(name).register_forward_hook(
                    lambda _m, _i, output, penalty=penalty: self.added.append(penalty(output).mean())
                )
                stack.callback(hook.remove)
            yield


class _Unknowns:
    """Masks, followed by noise (R, *shape) with its prior."""

    draws = 1

    def __init__(self, masks: Masking, shapes: Sequence[tuple[int, ...]], weight: float, *, is_zero: bool) -> None:
        self._masks, self._shapes, self._weight, self._is_zero = masks, shapes, weight, is_zero

    def first(self, generator: torch.Generator) -> Masks:
        noise = tuple(torch.randn(shape, generator=generator) * (not self._is_zero) for shape in self._shapes)
        return *self._masks.first(generator), *noise

    def masks(
        self, variables: Masks, victims: Sequence[int], generators: Sequence[torch.Generator], done: float
    ) -> Masks:
        cut = len(variables) - len(self._shapes)
        return *self._masks.masks(variables[:cut], victims, generators, done), *variables[cut:]

    def prior(self, masks: Masks) -> Tensor | float:
        cut = len(masks) - len(self._shapes)
        squares = torch.stack([noise.square().flatten(1).mean(1) for noise in masks[cut:]])
        return self._masks.prior(masks[:cut]) + 0.5 * self._weight * squares.sum(0)

    def project(self, variables: Masks) -> None:
        self._masks.project(variables[: len(variables) - len(self._shapes)])


def _whole(observation: Observation) -> Observation:
    """Return the observation with the tensors that were set aside as unreliable."""
    return replace(
        observation,
        update=replace(observation.update, tensors={**observation.update.tensors, **observation.set_aside}),
        hidden=observation.hidden - observation.set_aside.keys(),
        set_aside={},
    )


def _noise_modules(observation: Observation) -> tuple[str, ...]:
    return tuple(name for known in observation.public for name in known.facts.get("noise_modules", ()))


@torch.no_grad()
def _shapes(observation: Observation) -> list[tuple[int, ...]]:
    """Return the shape of the noise of each module for one batch."""
    model, names = copy.deepcopy(observation.model), _noise_modules(observation)
    blank = torch.zeros((observation.batch_size or 1, *observation.spec.shape)).to(next(model.parameters()))
    with without_dropout(), layer_outputs(model, names) as seen:
        run(model, blank)
    shapes = {name: tuple(noise.shape) for name, noise in seen}
    return [shapes[name] for name in names]
