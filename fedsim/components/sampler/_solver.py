"""Solvers of dx/ds = (x - D(x, s)) / s from pure noise to no noise: settings, noise levels, and steps."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from fedsim.core.errors import FedsimError, GenerationError
from fedsim.core.hooks import GenerationContext, GenerationInputs, Sampler, Sampling
from fedsim.core.types import Config, Event

Denoise = Callable[[Tensor, Tensor], Tensor]  # maps x (B, ...) and its noise levels (B,) to denoised x


class SolverConfig(Config):
    """Settings of a solver. Levels are in units of normalised images, whose standard deviation is 1."""

    steps: int = Field(default=8, ge=1, description="N, levels from noise to none")
    min_level: float = Field(default=0.004, gt=0, description="the last level before 0")
    max_level: float = Field(default=160.0, gt=0, description="the first level")
    curve: float = Field(default=7.0, gt=0, description="power by which levels crowd at the end; 1: equal steps")
    guidance: float = Field(
        default=0.0, ge=0, description="g in D(x | class) + g (D(x | class) - D(x)); 0 draws of the class as it is"
    )

    @model_validator(mode="after")
    def _check_levels(self) -> SolverConfig:
        if self.min_level >= self.max_level:
            raise ValueError(
                f"min_level is {self.min_level} and max_level {self.max_level}: "
                "levels fall, so 'min_level' must be smaller than 'max_level'"
            )
        return self


@dataclass(frozen=True)
class Drawing(Sampling):
    """Samples at their current noise level.

    Attributes:
        classes: class of each sample, -1 for none, shape (B,).
    """

    classes: Tensor


SolverConfigT = TypeVar("SolverConfigT", bound=SolverConfig)


class LevelSolver(Sampler[SolverConfigT, Drawing]):
    """Base class: steps along the noise levels of Karras et al.

    2022 (arXiv 2206.00364, eq. 5). Subclasses implement `move`.
    """

    counts: ClassVar[frozenset[str]] = frozenset({"evaluations"})

    @abstractmethod
    def move(self, denoise: Denoise, x: Tensor, level: Tensor, after: Tensor) -> tuple[Tensor, int]:
        """Return x at the next noise level, and the number of model evaluations.

        Args:
            denoise: the model.
            x: shape (B, ...).
            level: noise level of x, shape (B,).
            after: next noise level, shape (B,); all 0 or none.
        """

    def denoise(self, model: nn.Module, state: Drawing) -> Denoise:
        """Return the model as a function of x and noise level, with the configured guidance."""
        return lambda x, level: apply_guidance(model, x, level, state.classes, self.config.guidance)

    def check(self, model: nn.Module) -> None:
        """Raise unless the model is a denoiser with enough noise levels.

        Raises:
            FedsimError: the model is not a denoiser, or has fewer levels than steps.
        """
        check_denoiser(model, self.config.steps)

    def start(self, model: nn.Module, condition: GenerationInputs, context: GenerationContext) -> Drawing:
        """Return noise, from each row's own generator.

        Raises:
            FedsimError: guidance needs classes, and the model is not class-conditional.
        """
        config = self.config
        classes = classes_of(model, condition, needed=config.guidance > 0)
        x = [config.max_level * torch.randn(context.shape, generator=generator) for generator in context.generators]
        return Drawing(torch.stack(x), (config.steps,) * len(x), classes)

    def step(self, model: nn.Module, state: Drawing, context: GenerationContext) -> tuple[Drawing, list[Event]]:
        """Move all samples to the next noise level."""
        all_levels = torch.cat((levels(self.config), torch.zeros(1, dtype=torch.double))).to(state.x.dtype)
        place = len(all_levels) - 1 - torch.tensor(state.level)
        x, evaluations = self.move(self.denoise(model, state), state.x, all_levels[place], all_levels[place + 1])
        check_finite(x)
        calls = evaluations * (1 + (self.config.guidance > 0))
        left = tuple(level - 1 for level in state.level)
        return replace(state, x=x, level=left), [Event(evaluations=calls) for _ in left]

    def are_finished(self, state: Drawing) -> Sequence[bool]:
        """Return which samples have no noise left."""
        return [level == 0 for level in state.level]


def levels(config: SolverConfig) -> Tensor:
    """Return the N noise levels from the first to the last one above 0, double precision."""
    part = torch.linspace(0, 1, config.steps, dtype=torch.double)
    first, last = config.max_level ** (1 / config.curve), config.min_level ** (1 / config.curve)
    return (first + part * (last - first)) ** config.curve


def euler(denoise: Denoise, x: Tensor, level: Tensor, after: Tensor) -> tuple[Tensor, int]:
    """Take an Euler step: follow the slope at the current level."""
    slope = (x - denoise(x, level)) / _wide(level, x)
    return x + _wide(after - level, x) * slope, 1


def heun(denoise: Denoise, x: Tensor, level: Tensor, after: Tensor) -> tuple[Tensor, int]:
    """Take a Heun step: follow the mean slope of both ends; an Euler step if the next level is 0."""
    slope = (x - denoise(x, level)) / _wide(level, x)
    moved = x + _wide(after - level, x) * slope
    if not after.all():
        return moved, 1
    second = (moved - denoise(moved, after)) / _wide(after, x)
    return x + _wide(after - level, x) * (slope + second) / 2, 2


def apply_guidance(model: nn.Module, x: Tensor, level: Tensor, classes: Tensor, guidance: float) -> Tensor:
    """Return denoised x, with classifier-free guidance if the model is class-conditional."""
    if not getattr(model, "classes", 0):
        return model(x, level)
    known = model(x, level, labels=classes)
    if not guidance:
        return known
    return known + guidance * (known - model(x, level, labels=torch.full_like(classes, -1)))


def check_denoiser(model: nn.Module, steps: int) -> None:
    """Check that a model is a denoiser with at least as many noise levels as steps.

    Raises:
        FedsimError: otherwise.
    """
    if "noise" not in inspect.signature(model.forward).parameters:
        raise FedsimError(
            f"the model {type(model).__name__} predicts no noise, so it cannot generate samples: its forward "
            "has no argument 'noise'. Use a model trained for task 'denoising', such as 'edm-unet'."
        )
    known = getattr(model, "levels", None)
    if isinstance(known, int) and steps > known:
        raise FedsimError(
            f"the sampler needs {steps} steps, and model {type(model).__name__} has {known} noise levels. "
            f"Set steps to at most {known}."
        )


def classes_of(model: nn.Module, condition: GenerationInputs, *, needed: bool) -> Tensor:
    """Return the class of each row, -1 if none is given.

    Raises:
        FedsimError: guidance needs classes and none are given or known, or a class is out of range.
    """
    known, wanted = getattr(model, "classes", 0), condition.extra_inputs.get("class")
    if needed and not known:
        raise FedsimError(
            f"guidance compares predictions with and without a class, and model {type(model).__name__} has "
            "no classes. Set guidance to 0, or train with model.classes = true and a task with classes = "
            "true."
        )
    if needed and wanted is None:
        raise FedsimError(
            "guidance compares a class with none, and no class is given. Give each row one, "
            'Condition(prompts, {"class": numbers}), or set guidance to 0.'
        )
    if wanted is None or not known:
        return torch.full((len(condition),), -1)
    wrong = wanted[(wanted < -1) | (wanted >= known)]
    if len(wrong):
        raise FedsimError(f"class {int(wrong[0])} was requested, and the model knows classes 0 to {known - 1}.")
    return wanted


def check_finite(x: Tensor) -> None:
    """Check that samples (B, ...) are finite.

    Raises:
        GenerationError: some rows are not finite.
    """
    is_broken = ~x.flatten(1).isfinite().all(1)
    if is_broken.any():
        raise GenerationError(
            "the model's predictions are not finite. Check its weights: the training may have diverged.",
            is_broken.nonzero().flatten().tolist(),
        )


def _wide(numbers: Tensor, like: Tensor) -> Tensor:
    return numbers.view(-1, *[1] * (like.ndim - 1))
