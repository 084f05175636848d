"""denoiser-inversion: optimise a denoising client's noise and noise level jointly with the images.

With `distance = "squared"` the norm of the gradient counts too, which carries some information on the level.
`also_knows = ["client-randomness"]` grants level and noise. All other matching attacks refuse the task: they would
minimise another function. With unknown noise the search has twice as many unknowns and a scale that trades off with
them; a search that ends far above 0 does not show protection, and no measurement here shows a success with unknown
draws.

Idea: the step of a denoising client depends on image, noise and level. Level and noise have known distributions, so
    they are unknowns with a prior, like dropout masks in DIA.
Equation: min over y, e, z of 1 - cos(g(y, e, s), g*) + l_tv TV(y) + l_e mean(e^2) / 2 + l_z mean(z^2) / 2, with
    s = exp(m + w z), e and z from N(0, 1).
Assumes: honest-but-curious server, a single gradient of task denoising. Granted draws are fixed. The classes of a
    class-conditional model must be known.
Recovers: images, noise and levels.
Fails: large levels, at which the model hardly sees the image; batches; convergence to a wrong level.
Source: after DIA, arXiv 2208.06163; level and noise are distributed as in EDM, arXiv 2206.00364.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

import torch
from pydantic import Field
from torch import Tensor
from torch.func import functional_call

from attacks.core.matching.attack import MatchingAttack, MatchingConfig, best_of, best_row
from attacks.core.matching.comparison import Comparison, GeneralComparison
from attacks.core.matching.descent import RestartResult, Search
from attacks.core.matching.simulated_client import SimulatedClient
from attacks.core.matching.unknowns import NOTHING, Gaussian, Unknowns, Values
from fedsim.core.hooks import Effort, Tables
from fedsim.core.registry import attack
from fedsim.core.types import Batch, Draws, Masks, Observation, Reconstruction
from fedsim.tasks.denoising import Denoising

_NOISE, _LEVEL = "noise", "level"
_TASK = "task."


class DenoiserInversionConfig(MatchingConfig):
    """Settings of the search."""

    noise_weight: float = Field(default=1e-4, ge=0, description="weight l_e of the noise's prior")
    level_weight: float = Field(default=1e-4, ge=0, description="weight l_z of the level's prior")
    noise_learning_rate: float = Field(default=0.1, gt=0, description="Adam's step for the noise, in its deviations")
    level_learning_rate: float = Field(default=0.02, gt=0, description="Adam's step for z, which makes s")


@final
@attack("denoiser-inversion", summary="optimises a denoiser's noise and level jointly with the images", tier="research")
class DenoiserInversion(MatchingAttack[DenoiserInversionConfig]):
    """Simulates a denoising client with unknown draws."""

    effort: ClassVar[Effort] = "descent"
    training_mode: ClassVar[bool] = False
    searches_draws: ClassVar[bool] = True
    example: ClassVar[Tables] = {
        "task": "denoising",
        "model": {"name": "edm-unet", "width": 8, "blocks": 1, "multipliers": [1]},
        "federation": {"batch_size": 1},
        "attacks": [{"max_iterations": 5}],
    }

    def estimate_success(self, observation: Observation) -> tuple[float, str]:
        """Expect little: there are more unknowns than entries of the images."""
        return 0.05, "noise and level are unknown too"

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse other tasks, and unknown classes of a class-conditional model."""
        if not isinstance(observation.task, Denoising):
            return f"the clients' task is '{observation.task.name}', and this attack simulates a step of 'denoising'"
        if observation.task.config.classes and observation.labels is None:
            return "the denoiser is conditioned on classes, which are not known; add 'labels' to threat.knows"
        return super().not_applicable(observation)

    def max_victims(self, observation: Observation) -> int:
        """Return 1: victims differ in their granted draws."""
        return 1

    def labels(self, observation: Observation) -> Tensor:
        """Return granted labels, or zeros: the loss does not depend on them."""
        if observation.labels is not None:
            return observation.labels
        return torch.zeros(observation.batch_size or 1, dtype=torch.long)

    def unknowns(self, observations: Sequence[Observation]) -> Unknowns:
        """Return noise and level as unknowns, unless draws are granted."""
        (observation,) = observations
        config, count = self.config, observation.batch_size or 1
        if observation.draws:
            return Unknowns()
        shapes, rate = ((count, *observation.spec.shape),), config.noise_learning_rate
        noise = Gaussian(_NOISE, rate=rate, shapes=shapes, weight=config.noise_weight)
        level = Gaussian(_LEVEL, rate=config.level_learning_rate, shapes=((count,),), weight=config.level_weight)
        return Unknowns((noise, level))

    def comparison(self, observations: Sequence[Observation], search: Search) -> Comparison:
        """Return the general comparison, since a step's targets depend on the dummy."""
        return GeneralComparison(self.simulated_client(observations[0]), observations)

    def simulated_client(self, observation: Observation) -> SimulatedClient:
        """Return a simulated client that outputs the client's loss."""
        plain, task = super().simulated_client(observation), observation.task
        assert isinstance(task, Denoising), "checked by `not_applicable`"
        granted = observation.draws[0] if observation.draws else {}
        changes = {"labels": self.labels(observation), "granted_draws": granted, "task": task, "clients": plain.loss}
        return _DenoisingClient(**{**vars(plain), **changes, "loss": lambda value, _labels: value})

    def report(
        self, observation: Observation, rows: Sequence[RestartResult], labels: Tensor, path: str
    ) -> Reconstruction:
        """Return the best row, with the noise level of the first example."""
        guess, task = best_of(rows, labels, path, self.remarks(observation)), observation.task
        level = best_row(rows).extra_values.get(_LEVEL)
        if level is None or not isinstance(task, Denoising):
            return guess
        levels = _level(level[0].detach(), task)
        return replace(
            guess, diagnostics={**guess.diagnostics, "noise level found, of the first example": float(levels[0])}
        )


@dataclass(frozen=True)
class _DenoisingClient(SimulatedClient):
    """A simulated step of a denoising client.

    Attributes:
        labels: classes of the dummies.
        granted_draws: the client's draws, if they are known.
        task: the denoising task, which computes outputs and targets of a step.
        clients: the client's loss of outputs and targets.
    """

    labels: Tensor | None = None
    granted_draws: Draws | None = None
    task: Denoising | None = None
    clients: Any = None

    def outputs(
        self, inputs: Tensor, masks: Masks, weights: Mapping[str, Tensor], variables: Values = NOTHING
    ) -> Tensor:
        """Return the loss of the step, a scalar."""
        assert self.task is not None, "given when the client is built"
        assert self.labels is not None, "given when the client is built"
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}

        def model(*arguments: Tensor, **given: Any) -> Tensor:
            return functional_call(self.model, {**weights, **buffers}, arguments, given)

        with self.apply_masks(masks, variables):
            return self.clients(*self.task.answer(model, Batch(inputs, self.labels), self._draws(variables)))

    def _draws(self, variables: Values) -> Draws:
        if self.granted_draws:
            return self.granted_draws
        assert self.task is not None, "given when the client is built"
        draws = {_TASK + "noise": variables[_NOISE][0], _TASK + "level": _level(variables[_LEVEL][0], self.task)}
        if self.task.config.classes:
            draws[_TASK + "unlabelled"] = torch.zeros(len(draws[_TASK + "level"]), dtype=torch.bool)
        return draws


def _level(z: Tensor, task: Denoising) -> Tensor:
    """Return s = exp(m + w z)."""
    return (task.config.log_mean + task.config.log_std * z).exp()
