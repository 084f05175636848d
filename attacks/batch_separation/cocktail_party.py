"""cocktail-party: unmix the images of a large batch from a first linear layer, coarsely (Cocktail Party Attack, CPA).

The search takes Adam steps on unit vectors. With a bias, each image's mixture of the gradient's bias column gives scale
and sign. Without a bias the next layer's row space gives them, unless dropout hides entries of it; otherwise they fill
the pixel range best. Images of 8 x 8 pixels have too few pixels for the statistics.

Idea: every row of the weight gradient G = D X is a mixture of the batch's inputs. Independent component analysis
    separates them; it needs no zeros in D, so neither ReLU nor dropout. A bias or the next layer gives sign and scale.
Equation: max over unit vectors w_i of mean log(cosh(w_i Y))^2 - decorrelation * mean over pairs of (exp(T |<w_i, w_j>|)
    - 1) - weighted total variation of w_i Y, with Y the whitened, centred row space of G.
Assumes: honest-but-curious server, one gradient of two or more examples, also with some noise; labels not needed.
Recovers: coarse images, clamped to the pixel range, and labels. Dropout changes D only; it hides the labels of single
    images and, without a bias, sign and scale.
Fails: in part: similar images stay mixed, some are found twice and others never, more so in larger batches; images of
    few pixels. It does not invert features deep in a network.
Source: Kariyappa et al. 2023, arXiv 2209.05578; the weights of the terms are this project's.
"""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from attacks.core.gradient_distance import verdict
from attacks.core.layers import PixelLayer, examples_from, first_linear, layer_behind
from attacks.core.masks_by_layer import peel
from attacks.core.matching.optimizers import BETAS, EPSILON
from attacks.core.matching.priors.total_variation import total_variation
from attacks.core.outlooks import outlook_of
from attacks.core.pixels import pixel_box
from attacks.core.preconditions import one_gradient_only
from attacks.core.results import labels_or_unknown, no_guess
from attacks.core.scale_and_sign import largest_in_range, signed_scales
from attacks.core.spans import share_outside
from attacks.core.tolerances import EXACT, LEAST
from fedsim.core.hooks import BatchSeparationAttack, CostEstimate, Effort, Tables
from fedsim.core.registry import attack
from fedsim.core.types import Config, Observation, OnStep, Reconstruction, Step

_LEAST_EXPLAINED = 0.5  # share of the gradient's square in as many directions as images; below it gives up
_LOG_2 = 0.6931471805599453
_CONSTANT = 1e-10  # relative to the largest variance; rounding of a direction constant over all pixels stays below


# Seconds of a step, and of each entry of the images in it.
_STEP, _ENTRY = 1.3e-3, 1.1e-7


class CocktailPartyConfig(Config):
    """Settings. On one core, 1,000 iterations need about 4 seconds for 32 images of 784 pixels."""

    max_iterations: int = Field(default=1000, ge=1, description="Adam steps")
    learning_rate: float = Field(
        default=0.01, gt=0, description="Adam's step, relative to the length of the unmixing vectors"
    )
    decorrelation: float = Field(default=1.0, ge=0, description="weight of the correlation of pairs")
    sharpness: float = Field(default=5.0, gt=0, description="T: how strongly large correlations are penalised")
    total_variation: float = Field(
        default=10.0, ge=0, description="weight of the total variation of images with standard deviation 1"
    )


class _Space(NamedTuple):
    right: Tensor  # (R, pixels), or (R, pixels + 1) with the bias as last column
    has_bias: bool
    rank: int  # numerical rank of the whole gradient
    explained_share: float  # share of the gradient's square in these R directions


@final
@attack(
    "cocktail-party",
    summary="coarse images of large batches, by unmixing (CPA)",
    tier="core",
    paper="2209.05578",
    fidelity="variant",
    deviates="weights and steps are chosen here; first dense layers only",
    paper_steps=(
        ("whitened row space of the weight gradient", "whitening_of"),
        ("independent components by non-Gaussianity, decorrelation and total variation", "CocktailParty._objective"),
        ("scale and sign of each image", "CocktailParty._reconstruction"),
        ("features of a deep network, inverted to images", ""),
    ),
    aliases=("cpa",),
)
class CocktailParty(BatchSeparationAttack[CocktailPartyConfig]):
    """Finds independent components of the row space of the first weight gradient."""

    effort: ClassVar[Effort] = "descent"
    example: ClassVar[Tables] = {"federation": {"batch_size": 2}}

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse several steps, single examples, and models without a linear layer on the flattened pixels."""
        if observation.batch_size == 1:
            return "a single example is no mixture; closed-form-linear solves it"
        if first_linear(observation) is None:
            return "no linear layer sees the flattened input"
        return one_gradient_only(observation)

    def outlook(self, observation: Observation) -> CostEstimate:
        """Expect steps that cost the same for any model, and coarse images."""
        entries = (observation.batch_size or 1) * math.prod(observation.spec.shape)
        seconds = self.config.max_iterations * (_STEP + _ENTRY * entries)
        return outlook_of(observation, 0.0, 0.005, "independent components are coarse images", seconds=seconds)

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Whiten, unmix, then find signs and scales."""
        layer = first_linear(observation)
        assert layer is not None
        space = self._space(observation, layer)
        size = observation.batch_size or space.rank
        diagnostics = {"numerical rank": float(space.rank), "share explained": space.explained_share}
        reason = self._hopeless(observation, layer, space)
        if reason is not None:
            return no_guess(observation, reason, iterations=0, diagnostics=diagnostics)
        pixels = space.right[:, :-1] if space.has_bias else space.right
        whitening = whitening_of(pixels)
        white = whitening @ (pixels - pixels.mean(1, keepdim=True))
        unmixing, history = self._unmix(white, observation, layer, generator, on_step)
        rows = unmixing @ whitening @ space.right
        images = _clamp_images(observation, layer, rows, space.has_bias)
        correlation = (unmixing @ unmixing.T).fill_diagonal_(0.0).abs()
        return self._reconstruction(
            observation, layer, images, size, history, {**diagnostics, "largest correlation": float(correlation.max())}
        )

    def _space(self, observation: Observation, layer: PixelLayer) -> _Space:
        gradient = observation.update.tensors[f"{layer.name}.weight"].double()
        bias = observation.update.tensors.get(f"{layer.name}.bias")
        if bias is not None:
            gradient = torch.cat([gradient, bias.double()[:, None]], 1)
        _, singular, right = torch.linalg.svd(gradient, full_matrices=False)
        rank = int((singular > EXACT * singular[0]).sum())
        kept = min(rank, observation.batch_size or rank)
        explained = float(singular[:kept].square().sum() / singular.square().sum())
        return _Space(singular[:kept, None] * right[:kept], bias is not None, rank, explained)

    def _hopeless(self, observation: Observation, layer: PixelLayer, space: _Space) -> str | None:
        if not bool(space.right.any()):
            return f"gave up: the gradient of '{layer.name}' is zero"
        if observation.batch_size is None and space.rank == min(layer.module.get_parameter("weight").shape):
            return f"gave up: the gradient of '{layer.name}' has full rank, so the batch size cannot be read from it"
        if space.explained_share < _LEAST_EXPLAINED:
            held = f"{len(space.right)} directions hold {space.explained_share:.0%} of the gradient"
            return f"gave up: {held}, the rest is noise"
        return None

    def _unmix(
        self, white: Tensor, observation: Observation, layer: PixelLayer, generator: torch.Generator, on_step: OnStep
    ) -> tuple[Tensor, list[float]]:
        """Optimise unit unmixing vectors (R, R) by Adam, from orthogonal vectors; return them and all objectives."""
        count = len(white)
        vectors = torch.linalg.qr(torch.randn((count, count), generator=generator, dtype=white.dtype)).Q
        # Adam, written out: the unmixing is so sensitive that another order of rounding changes the images.
        first, second = torch.zeros_like(vectors), torch.zeros_like(vectors)
        objectives: list[float] = []
        for iteration in range(1, self.config.max_iterations + 1):
            vectors.requires_grad_()
            unmixing = F.normalize(vectors, dim=1)
            sources = unmixing @ white
            objective = self._objective(unmixing, sources, layer, observation.spec.shape)
            (slope,) = torch.autograd.grad(objective, vectors)
            objectives.append(float(objective.detach()))
            guess = examples_from(sources.detach(), layer, observation)
            on_step(Step(0, iteration, self.config.max_iterations, objectives[-1], min(objectives), guess))
            first = BETAS[0] * first + (1 - BETAS[0]) * slope
            second = BETAS[1] * second + (1 - BETAS[1]) * slope.square()
            size = (second / (1 - BETAS[1] ** iteration)).sqrt() + EPSILON
            vectors = vectors.detach() - self.config.learning_rate * first / (1 - BETAS[0] ** iteration) / size
        return F.normalize(vectors, dim=1), objectives

    def _objective(self, unmixing: Tensor, sources: Tensor, layer: PixelLayer, shape: tuple[int, ...]) -> Tensor:
        images = sources[:, layer.pixels[0].argsort()].view(-1, *shape)
        smoothness = self.config.total_variation * total_variation(images[None]).sum()
        pairs = 1.0 - torch.eye(len(unmixing), dtype=unmixing.dtype)
        punished = torch.expm1(self.config.sharpness * (unmixing @ unmixing.T * pairs).abs()).sum()
        decorrelation = self.config.decorrelation * punished / pairs.sum().clamp_min(1.0)
        return smoothness + decorrelation - log_cosh(sources).square().mean()

    def _reconstruction(
        self,
        observation: Observation,
        layer: PixelLayer,
        images: Tensor,
        size: int,
        objectives: list[float],
        diagnostics: dict[str, float],
    ) -> Reconstruction:
        labels = _labels(observation, images)
        unmixing = (objectives[-1], "the unmixing's own, lower is better only for the same gradient")
        objective, meaning = verdict(observation, images, labels, None if observation.sites else (), unmixing)
        return Reconstruction.of(
            inputs=images,
            labels=labels,
            objective=objective,
            iterations=len(objectives),
            history=list(enumerate(objectives, 1)),
            stop_reason="iterations used up",
            notes=(
                f"layer '{layer.name}' sees the pixels",
                f"{len(images)} components, {size - len(images)} examples left no trace",
                "the images are estimates; the history is that of the unmixing's objective",
                meaning,
            ),
            diagnostics={**diagnostics, "residual": _residual(observation, layer, images)},
        )


def whitening_of(rows: Tensor) -> Tensor:
    """Return K, shape (R', R), for which K (rows - their means) has unit covariance over the columns; R' <= R.

    Directions that do not vary between the columns are omitted.
    """
    centred = rows - rows.mean(1, keepdim=True)
    scaled = F.normalize(centred, dim=1)
    norms = centred.norm(dim=1).clamp_min(LEAST)
    values, vectors = torch.linalg.eigh(scaled @ scaled.T / rows.shape[1])
    kept = values > _CONSTANT * values[-1]
    return (vectors[:, kept] / values[kept].sqrt()).T / norms


def log_cosh(values: Tensor) -> Tensor:
    """Return log(cosh(values)) without overflow."""
    return values.abs() + F.softplus(-2.0 * values.abs()) - _LOG_2


def _clamp_images(observation: Observation, layer: PixelLayer, rows: Tensor, has_bias: bool) -> Tensor:
    """Return images (A, *shape), clamped to the pixel range, from rows (A, pixels [+ 1]) known up to a factor."""
    rows = rows[:, :-1] / rows[:, -1:] if has_bias else _scale_without_bias(observation, layer, rows)
    images = examples_from(rows.nan_to_num(0.0, 0.0, 0.0), layer, observation)
    low, high = (bound.to(images.dtype) for bound in pixel_box(observation))
    return images.clamp(low, high)


def _scale_without_bias(observation: Observation, layer: PixelLayer, rows: Tensor) -> Tensor:
    rows = rows / rows.square().mean(1, keepdim=True).sqrt().clamp_min(LEAST)
    next_layer = layer_behind(observation, layer.name)
    factors = torch.stack([_largest(observation, layer, sign * rows) for sign in (1.0, -1.0)])
    fitting = torch.where(factors[0] >= factors[1], factors[0], -factors[1])
    if next_layer is None or observation.sites:
        return rows * fitting[:, None]
    gradient = observation.update.tensors[f"{next_layer.name}.weight"].double()
    row_space = torch.linalg.svd(gradient, full_matrices=False).Vh[: len(rows)]
    outputs = rows @ observation.model.get_parameter(f"{layer.name}.weight").detach().double().T
    scales = signed_scales(next_layer.inputs, outputs, torch.ones_like(outputs), row_space)
    ranges = torch.where(scales.values > 0, factors[0], factors[1])
    return rows * (scales.values.sign() * torch.where(scales.is_identified, scales.values.abs(), ranges))[:, None]


def _largest(observation: Observation, layer: PixelLayer, rows: Tensor) -> Tensor:
    return largest_in_range(examples_from(rows, layer, observation).double(), observation)


def _labels(observation: Observation, images: Tensor) -> Tensor:
    """Return a label per image: granted or inferred; without dropout, in the order inferred layer by layer."""
    known = labels_or_unknown(observation, len(images))
    read = None if observation.sites else peel(observation, images).labels
    if read is None or (observation.labels is not None and not torch.equal(read.sort().values, known.sort().values)):
        return known
    return read


def _residual(observation: Observation, layer: PixelLayer, images: Tensor) -> float:
    """Return the share of the first gradient outside the span of the images; clamping to the pixel range raises it."""
    gradient = observation.update.tensors[f"{layer.name}.weight"].double()
    rows = torch.empty(len(images), gradient.shape[1], dtype=torch.float64)
    rows[:, layer.pixels[0].argsort()] = images.double().flatten(1)
    return share_outside(gradient, rows)
