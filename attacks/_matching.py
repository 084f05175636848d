"""The search that all gradient-matching attacks share: a dummy whose gradient points where the observed one does.

The objective is J = 1 - <g, g*> / (||g|| ||g*|| + 1e-8) + tv TV(x) + prior(masks), with one cosine over all
parameters (arXiv 2003.14053, equation 4; arXiv 2208.06163 adds the masks).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Adam
from torch.optim.lr_scheduler import ReduceLROnPlateau

from attacks._labels import LabelRule, infer_labels
from fedsim.types import Config, Masks, Observation, OnStep, Reconstruction, Step

_EPSILON = 1e-8
_HISTORY_POINTS = 400


class MatchingConfig(Config):
    """Settings of the search. The defaults are those of the Dropout Inversion Attack's reference experiments."""

    iterations: int = Field(default=20_000, ge=1, description="most iterations of one trial")
    learning_rate: float = Field(default=0.1, gt=0, description="Adam's step, in normalised input units and mask units")
    signed: bool = Field(
        default=True, description="use only the sign of the objective's gradient with respect to the inputs"
    )
    boxed: bool = Field(default=True, description="keep the dummy inside the pixel range after every step")
    total_variation: float = Field(default=1e-5, ge=0, description="weight of the anisotropic total variation (means)")
    plateau_patience: int = Field(
        default=800, ge=1, description="iterations without improvement before the step shrinks"
    )
    plateau_factor: float = Field(default=0.1, gt=0, lt=1, description="by how much the step shrinks then")
    threshold: float = Field(default=1e-5, ge=0, description="stop when the objective is below")
    patience: int = Field(default=4000, ge=1, description="stop after this many iterations without a new best")
    label_rule: LabelRule = Field(
        default="counting", description="how unknown labels of several examples are inferred; distinct: no class twice"
    )
    trials: int = Field(default=1, ge=1, description="independent starts; the lowest objective wins")


@dataclass(frozen=True)
class Search:
    """What differs between the attacks.

    Attributes:
        forward: context in which the model's forward pass uses the current masks.
        draws: forward passes with contexts of their own whose gradients are averaged.
        first_masks: start values of the masks to optimise; empty for attacks that optimise none.
        prior: regulariser of the masks.
        training_mode: whether normalisation layers use batch statistics.
    """

    forward: Callable[[Masks], AbstractContextManager[None]]
    draws: int = 1
    first_masks: Callable[[torch.Generator], Masks] = lambda _generator: ()
    prior: Callable[[Masks], Tensor] = lambda _masks: torch.zeros(())
    training_mode: bool = True


@dataclass
class _Best:
    objective: float
    iteration: int
    inputs: Tensor
    masks: Masks


class GradientMatching:
    """The objective for one observation."""

    def __init__(self, observation: Observation, labels: Tensor, config: MatchingConfig, search: Search) -> None:
        """Put the observed model into the mode of the search; its weights stay as they are."""
        self._config = config
        self._search = search
        self._loss = observation.loss
        self._labels = labels
        self._model = observation.model.train(search.training_mode)
        parameters = {n: p for n, p in self._model.named_parameters() if n in observation.update.tensors}
        self._parameters = list(parameters.values())
        self._target = [observation.update.tensors[name] for name in parameters]
        self._target_norm = _norm(self._target)

    def distance(self, inputs: Tensor, masks: Masks) -> Tensor:
        """Return 1 - cosine between the dummy's gradient and the observed one, differentiable in inputs and masks."""
        gradients = [self._gradient(inputs, masks) for _ in range(self._search.draws)]
        gradient = [torch.stack(parts).mean(0) for parts in zip(*gradients, strict=True)]
        product = torch.stack([(g * t).sum() for g, t in zip(gradient, self._target, strict=True)]).sum()
        return 1.0 - product / (_norm(gradient) * self._target_norm + _EPSILON)

    def objective(self, inputs: Tensor, masks: Masks) -> Tensor:
        """Return the distance plus the regularisers."""
        smoothness = self._config.total_variation * total_variation(inputs)
        return self.distance(inputs, masks) + smoothness + self._search.prior(masks)

    def _gradient(self, inputs: Tensor, masks: Masks) -> tuple[Tensor, ...]:
        with self._search.forward(masks):
            loss = self._loss(self._model(inputs), self._labels)
        return torch.autograd.grad(loss, self._parameters, create_graph=True, materialize_grads=True)


def match_gradients(
    observation: Observation, config: MatchingConfig, search: Search, generator: torch.Generator, on_step: OnStep
) -> Reconstruction:
    """Search for inputs, and masks where the search has any, and return the best guess of all trials."""
    labels = observation.labels if observation.labels is not None else infer_labels(observation, config.label_rule)
    matching = GradientMatching(observation, labels, config, search)
    trials = [
        _trial(trial, matching, observation, config, search, generator, on_step) for trial in range(config.trials)
    ]
    best, history, stopped = min(trials, key=lambda trial: trial[0].objective)
    return Reconstruction(
        inputs=best.inputs,
        labels=labels.clone(),
        masks=best.masks or None,
        objective=best.objective,
        iterations=sum(len(objectives) for _, objectives, _ in trials),
        best_iteration=best.iteration,
        history=_thinned(history),
        stopped=stopped,
    )


def one_gradient_only(observation: Observation) -> str | None:
    """Return why an attack that matches one gradient does not apply, or None."""
    if observation.local_steps > 1:
        return f"the update holds {observation.local_steps} local steps; this attack matches one gradient"
    return None


def total_variation(inputs: Tensor) -> Tensor:
    """Return the anisotropic total variation of images (..., H, W): mean absolute differences, both directions."""
    across = (inputs[..., :, 1:] - inputs[..., :, :-1]).abs().mean()
    down = (inputs[..., 1:, :] - inputs[..., :-1, :]).abs().mean()
    return across + down


def pixel_box(observation: Observation) -> tuple[Tensor, Tensor]:
    """Return the normalised values of pixels 0 and 1, shape (C, 1, 1)."""
    mean = torch.tensor(observation.spec.mean).view(-1, 1, 1)
    std = torch.tensor(observation.spec.std).view(-1, 1, 1)
    return (0.0 - mean) / std, (1.0 - mean) / std


def _trial(
    trial: int,
    matching: GradientMatching,
    observation: Observation,
    config: MatchingConfig,
    search: Search,
    generator: torch.Generator,
    on_step: OnStep,
) -> tuple[_Best, list[float], str]:
    shape = (observation.batch_size or 1, *observation.spec.shape)
    inputs = torch.randn(shape, generator=generator).requires_grad_()
    masks = tuple(mask.requires_grad_() for mask in search.first_masks(generator))
    low, high = pixel_box(observation)
    optimizer = Adam([inputs, *masks], lr=config.learning_rate)
    schedule = ReduceLROnPlateau(optimizer, factor=config.plateau_factor, patience=config.plateau_patience)
    best = _Best(float("inf"), 0, inputs.detach().clone(), masks)
    objectives: list[float] = []
    for iteration in range(1, config.iterations + 1):
        objective = matching.objective(inputs, masks)
        value = float(objective.detach())
        objectives.append(value)
        if value < best.objective:
            best = _Best(value, iteration, inputs.detach().clone(), tuple(m.detach().clone() for m in masks))
        on_step(Step(trial, iteration, config.iterations, value, best.objective, inputs.detach()))
        stopped = _stop(value, iteration, best, config)
        if stopped:
            return best, objectives, stopped
        _descend(objective, inputs, masks, optimizer, config)
        schedule.step(value)
        _project(inputs, masks, (low, high) if config.boxed else None)
    return best, objectives, "iterations used up"


def _stop(value: float, iteration: int, best: _Best, config: MatchingConfig) -> str | None:
    if math.isnan(value):
        return "objective is not a number"
    if value < config.threshold:
        return "objective below threshold"
    if iteration - best.iteration >= config.patience:
        return "no improvement"
    return None


def _descend(objective: Tensor, inputs: Tensor, masks: Masks, optimizer: Adam, config: MatchingConfig) -> None:
    gradient, *mask_gradients = torch.autograd.grad(objective, [inputs, *masks], materialize_grads=True)
    inputs.grad = gradient.sign() if config.signed else gradient
    for mask, mask_gradient in zip(masks, mask_gradients, strict=True):
        mask.grad = mask_gradient
    optimizer.step()


@torch.no_grad()
def _project(inputs: Tensor, masks: Masks, box: tuple[Tensor, Tensor] | None) -> None:
    if box is not None:
        inputs.copy_(inputs.clamp(*box))
    for mask in masks:
        mask.clamp_(0.0, 1.0)


def _norm(tensors: list[Tensor]) -> Tensor:
    return torch.stack([tensor.square().sum() for tensor in tensors]).sum().sqrt()


def _thinned(objectives: list[float]) -> tuple[tuple[int, float], ...]:
    stride = max(1, len(objectives) // _HISTORY_POINTS)
    return tuple((i + 1, value) for i, value in enumerate(objectives) if i % stride == 0 or i + 1 == len(objectives))
