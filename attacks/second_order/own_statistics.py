"""own-statistics: inverts a residual network that normalises by the image's own statistics, block by block.

Idea: from grey, second-order steps on the whole gradient end in local minima, since norms make the equations of all
    layers nonlinear at once. Solved separately, the last block first, blocks are shallow problems. Quantities hidden by
    a norm are unknowns.
Equation: block(u) = e^c w and d/dt <block(u; t), e^-c d> = g*_t for the block's weights t, with its known output w up
    to a scale e^c, and d = dL/dw by backpropagation through the known rest.
Assumes: honest-but-curious server; an exact gradient of a single image or few images; no dropout except before the
    head.
Recovers: the image; its contrast, which norms hide almost to rounding, from the grid of its pixel values.
Fails: a network too narrow for its image (refused with the count); a block whose starts all end in local minima; larger
    batches; noise.
Source: this project; the walk is that of R-GAP, arXiv 2010.07733, and COPA, arXiv 2111.10178, over blocks.
"""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.core.client_gradient import client_gradient
from attacks.core.defense_facts import bound_of, inexact
from attacks.core.gradient_distance import gradient_distance, knows_rates
from attacks.core.labels import examples_of, labels_of
from attacks.core.mean_gradient import as_gradient
from attacks.core.outlooks import outlook_of
from attacks.core.preconditions import one_gradient_only
from attacks.core.results import NothingFound, no_examples, no_guess
from attacks.core.tolerances import EXACT
from attacks.second_order._chain_walk import Walk
from attacks.second_order._head_reading import HeadReading, read_head
from attacks.second_order._levenberg_marquardt import Solution
from attacks.second_order._pixel_grid import snap
from attacks.second_order._residual_chain import chain_of
from attacks.second_order._stage_facts import StageFacts, facts_of
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import Attack, CostEstimate, Effort, Tables
from fedsim.core.registry import attack
from fedsim.core.types import Config, Masks, Observation, OnStep, Reconstruction, Step, Tensors
from fedsim.core.types.effects import ClippedParts

_NEAR = 0.1  # in steps of the grid: pixels of another image are unlikely to be all so near at some contrast


class OwnStatisticsConfig(Config):
    """Settings of own-statistics."""

    starts: int = Field(default=8, ge=1, description="most random starts of a block; the first that solves it ends it")
    dense: int = Field(
        default=120_000_000, ge=1, description="most entries of a Jacobian, which is always formed (8 bytes an entry)"
    )
    grid: int = Field(
        default=255,
        ge=0,
        description="steps between the smallest and the largest pixel value of the image grid; 0: keep the contrast "
        "inferred from the gradient",
    )


class _Contrasted(NamedTuple):
    """Images at the contrast of a grid.

    Attributes:
        inputs: shape (B, *shape), in the model's precision.
        steps: number of grid steps; 0 if no grid fits.
        contrasts: factors from the solved images.
        distance: 1 - cosine of their gradient.
    """

    inputs: Tensor
    steps: int
    contrasts: tuple[float, ...]
    distance: float


@final
@attack(
    "own-statistics",
    summary="residual networks that normalise by the image itself, block by block",
    tier="research",
    related="2111.10178",
)
class OwnStatistics(Attack[OwnStatisticsConfig]):
    """Solves stage after stage by Levenberg-Marquardt, then the contrast by the pixel grid."""

    effort: ClassVar[Effort] = "second-order"
    example: ClassVar[Tables] = {
        "data": {"name": "digits", "size": 4},
        "model": {"name": "resnet18", "width": 4, "activation": "silu", "stem": "3x3"},
        "federation": {"batch_size": 1},
        "attacks": [{"starts": 1}],
    }

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse inexact gradients, and models that are not chains of residual blocks of sufficient width."""
        reason = one_gradient_only(observation) or _refuse_update(observation) or self._refuse_images(observation)
        if reason is not None:
            return reason
        try:
            diagnostics = facts_of(observation, chain_of(observation))
        except NotApplicable as refused:
            return str(refused)
        return self._refuse(diagnostics)

    def _refuse_images(self, observation: Observation) -> str | None:
        """Return why batches of such a shape are not searched, or None; called before a large model is copied."""
        shape, classes = observation.spec.shape, observation.spec.classes
        examples = examples_of(observation)
        if len(shape) != 3:  # noqa: PLR2004 - images
            return "the inputs are no images"
        if examples >= classes:
            return f"the head does not separate {examples} examples of {classes} classes"
        equations = sum(tensor.numel() for tensor in observation.update.tensors.values())
        return self._refuse_size("images", examples * math.prod(shape), equations)

    def _refuse_size(self, noun: str, unknowns: int, equations: int) -> str | None:
        if unknowns * equations <= self.config.dense:
            return None
        return (
            f"the Jacobian of {equations} equations by {unknowns} entries of {noun} has more entries than the setting "
            f"'dense' ({self.config.dense})"
        )

    def _refuse(self, diagnostics: tuple[StageFacts, ...]) -> str | None:
        if not any(diagnostic.blind.scales for diagnostic in diagnostics):
            return "no block normalises by statistics of the image"
        for stage in diagnostics:
            noun = f"inputs of '{stage.stage.name}'"
            if stage.equations < stage.unknowns:
                return f"the {noun} have {stage.unknowns} unknowns and at most {stage.equations} equations"
            weights = sum(weight.numel() for weight in stage.stage.weights().values())
            reason = self._refuse_size(noun, stage.unknowns, math.prod(stage.returns) + weights)
            if reason is not None:
                return reason
        return None

    def outlook(self, observation: Observation) -> CostEstimate:
        """Expect a few solutions for each block."""
        return outlook_of(observation, 5400.0, 0.9, "networks that are too narrow are refused")

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Invert stage by stage, then determine the contrast; an unsolved stage ends the attack."""
        labels = labels_of(observation)
        chain = chain_of(observation)
        diagnostics = facts_of(observation, chain)
        head = read_head(observation, chain.head, diagnostics[-1].returns, labels, generator)
        tell = _Teller(observation, on_step)
        walk = Walk(diagnostics, head.output, _convert_gradients(observation), self.config.starts, generator, tell)
        try:
            solution = walk.back()
        except NothingFound as lost:
            return no_guess(observation, str(lost), iterations=tell.steps)
        return self._report(observation, labels, head, solution, tell.steps)

    def _report(
        self, observation: Observation, labels: Tensor, head: HeadReading, solution: Solution, steps: int
    ) -> Reconstruction:
        walked = solution.values.view(len(labels), *observation.spec.shape)
        masks = tuple(mask.to(next(observation.model.parameters())) for mask in head.masks)
        best = self._round_to_grid(observation, walked, labels, masks)
        return Reconstruction.of(
            best.inputs,
            labels,
            masks=masks or None,
            objective=best.distance,
            iterations=steps,
            best_iteration=steps,
            history=[(number, value) for number, value in enumerate(solution.history, 1)],
            stop_reason="every stage is solved",
            notes=(_words(best), "objective: 1 - cosine of the whole gradient"),
            diagnostics={
                "steps of the grid": float(best.steps),
                "factor from the walk's contrast": best.contrasts[0],
                "equal bit by bit": float(_is_equal(observation, best.inputs, labels, masks)),
            },
            is_exact=best.distance < EXACT**2,
        )

    def _round_to_grid(self, observation: Observation, walked: Tensor, labels: Tensor, masks: Masks) -> _Contrasted:
        """Return the images with pixels on the grid if all are near it and explain the gradient."""
        spec, like = observation.spec, next(observation.model.parameters())
        plain = walked.to(like)
        if self.config.grid and "input-statistics" in observation.threat.knows:
            snapped = [snap(image, self.config.grid, spec.mean, spec.std) for image in walked]
            inputs = torch.stack([candidate.image for candidate in snapped]).to(like)
            distance = gradient_distance(observation, inputs, labels, masks)
            if max(candidate.farthest for candidate in snapped) < _NEAR and distance < EXACT**2:
                return _Contrasted(
                    inputs, self.config.grid, tuple(candidate.contrast for candidate in snapped), distance
                )
        return _Contrasted(plain, 0, (1.0,) * len(walked), gradient_distance(observation, plain, labels, masks))


class _Teller:
    """Reports steps. Before the first image the objective is infinite, so that every image is better.

    Attributes:
        steps: number of steps so far.
    """

    def __init__(self, observation: Observation, on_step: OnStep) -> None:
        self._nothing, self._on_step, self.steps = no_examples(observation), on_step, 0

    def __call__(self, objective: float, images: Tensor | None) -> None:
        self.steps += 1
        guess = self._nothing if images is None else images.detach().to(self._nothing)
        value = math.inf if images is None else objective
        self._on_step(Step(0, self.steps, self.steps, value, value, guess))


def _words(best: _Contrasted) -> str:
    if not best.steps:
        return "no pixel grid was used: normalisation hides the contrast, so it is only as exact as rounding allows"
    changes = ", ".join(f"{contrast - 1.0:+.1e}" for contrast in best.contrasts)
    return (
        f"the pixel grid was used: multiples of 1/{best.steps} determine the contrast; the gradient alone "
        f"was off by {changes}"
    )


def _is_equal(observation: Observation, inputs: Tensor, labels: Tensor, masks: Masks) -> bool:
    """Return whether the client's gradient at a guess equals the received gradient bit by bit."""
    gradient = client_gradient(observation, inputs, labels, masks)
    received = as_gradient(observation).update.tensors
    return all(torch.equal(gradient[name], received[name]) for name in gradient)


def _convert_gradients(observation: Observation) -> Tensors:
    return {name: tensor.cpu().double() for name, tensor in as_gradient(observation).update.tensors.items()}


def _refuse_update(observation: Observation) -> str | None:
    """Return why the gradient is inexact or incomplete, or its masks cannot be solved for, or None."""
    reason = inexact(observation)
    if reason is not None:
        return f"the equations do not hold exactly: {reason}"
    if bound_of(observation) is not None or observation.effects(ClippedParts):
        return "a defense clips the gradient"
    if observation.hidden_parameters:
        return f"the gradient of '{min(observation.hidden_parameters)}' is hidden"
    if not knows_rates(observation):
        return "the model drops out at rates that are not known"
    if len(observation.sites) > 1:
        return "the model drops out in several places"
    return None
