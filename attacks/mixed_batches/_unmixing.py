"""Solve mixtures for their images: labels from the gradient, weights from the labels, then the images.

The gradient of the last layer, z = V h + c, is G = 1/B sum_i (p_i - y_i) h_i^T. It is linear in the labels. If the
mixed inputs are known exactly, so are h and p, and G gives the mixed labels y, which are the images' weights if no two
images share a class. Without signs the images follow by least squares; with random signs every pixel is a small problem

    min over x of || |W x| - |y| ||,    x in the pixel range,

solved alternately for the signs and for x from many starts (Carlini et al. 2021, arXiv 2011.05315, minimise the same
over all pixels by descent). x and -x always explain a pixel equally well, and few mixtures allow more solutions. Among
solutions in the pixel range, the solution with most black and white values wins, then the darkest.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.core.gradient_distance import gradient_distance
from attacks.core.layers import run
from attacks.core.matching.priors.total_variation import total_variation
from attacks.core.pixels import pixel_box
from fedsim.core.nets.layer_calls import layer_inputs
from fedsim.core.nets.masks import inject_masks
from fedsim.core.nets.output_layer import output_layer
from fedsim.core.types import Masks, Observation, Reconstruction

_STARTS, _TURNS, _SPLITS, _REWEIGHTINGS = 48, 8, 4, 15
_MOST_ORDERED = 4
_ENUMERATED = 10
_ALIKE = 0.8
_EXPLAINED = 0.02
_LABELS_FIT = 1e-3  # error of a label share; a wrong pairing has an error of about the smaller weight
_SATURATED = 1e-2
_RIDGE = 1e-10
_TOLERANCE = 1e-8


class Mixed(NamedTuple):
    """Labels of mixtures.

    Attributes:
        probabilities: one row per mixture, shape (B, K), rows sum to 1; float64.
        distance: 1 - cosine of the whole gradient at the mixtures with these labels.
    """

    probabilities: Tensor
    distance: float


class Encodings(NamedTuple):
    """Encodings from one gradient.

    Attributes:
        values: mixtures with unknown signs, shape (N, d).
        probabilities: their labels, shape (N, K).
        labels: labels of the mixed images, shape (M,).
    """

    values: Tensor
    probabilities: Tensor
    labels: Tensor


class UnmixedImages(NamedTuple):
    """Solutions of a regression.

    Attributes:
        inputs: shape (M, d), float64.
        weights: W, shape (N, M).
        residual: root mean square of |W x| - |y|, in normalised units.
    """

    inputs: Tensor
    weights: Tensor
    residual: float


def mixed_labels(observation: Observation, guess: Reconstruction) -> Mixed | None:
    """Return the labels with which mixtures were trained, or None if the last layer does not determine them.

    Args:
        observation: a single gradient.
        guess: the mixtures, as inputs of the model, with their masks if the model has dropout.
    """
    masks = guess.masks or ()
    if len(masks) != len(observation.sites) or guess.inputs.shape[0] != observation.batch_size:
        return None
    seen = _last_layer(observation, guess.inputs, masks)
    if seen is None:
        return None
    gradient, features, predicted = seen
    slopes = len(features) * torch.linalg.lstsq(features.T, gradient.T, driver="gelsd").solution
    probabilities = predicted - slopes
    if not bool(torch.isfinite(probabilities).all()):
        return None
    shares = probabilities.to(guess.inputs.dtype)
    return Mixed(probabilities, gradient_distance(observation, guess.inputs, shares, masks))


@torch.no_grad()
def _last_layer(observation: Observation, inputs: Tensor, masks: Masks) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return gradient (K, h), inputs (B, h) and softmax (B, K) of the output layer, in float64."""
    output = output_layer(observation.model, observation.spec.classes)
    if output is None or f"{output[0]}.weight" not in observation.update.tensors:
        return None
    name, _ = output
    dropping = inject_masks(observation.sites, masks) if masks else nullcontext()
    with layer_inputs(observation.model.train(), [name]) as calls, dropping:
        outputs = run(observation.model, inputs)
    if not calls or calls[-1][1].ndim != 2:  # noqa: PLR2004 - (B, h)
        return None
    features = calls[-1][1].double()
    gradient = observation.update.tensors[f"{name}.weight"].double()
    if f"{name}.bias" in observation.update.tensors:
        gradient = torch.column_stack((gradient, observation.update.tensors[f"{name}.bias"].double()))
        features = torch.column_stack((features, torch.ones(len(features), dtype=torch.float64)))
    return gradient, features, outputs.double().softmax(1)


def unmix_pairs(
    observation: Observation, inputs: Tensor, probabilities: Tensor, labels: Tensor
) -> UnmixedImages | None:
    """Return the images mixed in pairs by one weight, W = l I + (1 - l) P, or None if the labels do not determine W.

    A pair of equal classes stays mixed: its labels do not show l.

    Args:
        observation: gives the pixel range and the shape.
        inputs: mixtures, shape (B, d), in any order.
        probabilities: their labels, shape (B, K).
        labels: labels of the images, shape (B,).
    """
    if len(labels.unique()) == len(labels):
        candidates = [probabilities[:, labels]]
    elif len(labels) <= _MOST_ORDERED:
        candidates = _pair_weights(probabilities, labels)
    else:
        return None
    solved = [_solve(inputs.double(), weights) for weights in candidates]
    return min(solved, key=lambda images: _oddness(observation, images.inputs), default=None)


def _solve(inputs: Tensor, weights: Tensor) -> UnmixedImages:
    images = torch.linalg.lstsq(weights, inputs, driver="gelsd").solution
    return UnmixedImages(images, weights, float((weights @ images - inputs).square().mean().sqrt()))


def _pair_weights(probabilities: Tensor, labels: Tensor) -> list[Tensor]:
    """Return every W, rows in the order of the mixtures, that maps the images' labels to the mixtures' labels."""
    count = len(labels)
    one_hot = F.one_hot(labels, probabilities.shape[1]).double()
    identity = torch.eye(count, dtype=torch.float64)
    candidates: list[Tensor] = []
    for partners, order in itertools.product(itertools.permutations(range(count)), repeat=2):
        rows, partner_rows = one_hot[list(order)], one_hot[list(partners)][list(order)]
        difference = rows - partner_rows
        share = float((difference * (probabilities - partner_rows)).sum() / difference.square().sum().clamp_min(_RIDGE))
        if (
            rows * share + partner_rows * (1.0 - share) - probabilities
        ).abs().max() < _LABELS_FIT and 0.0 <= share <= 1.0:
            candidates.append((share * identity + (1.0 - share) * identity[list(partners)])[list(order)])
    return candidates


def regress(observation: Observation, encodings: Encodings, generator: torch.Generator) -> UnmixedImages:
    """Return the images of encodings with unknown signs.

    The weights of images of equal classes are searched alternately with the images, from several first guesses.

    Args:
        observation: gives the pixel range and the shape of an image.
        encodings: encodings of one batch.
        generator: random source of the starts.
    """
    values, probabilities, labels = encodings
    magnitudes, bounds = values.double().abs(), _range(observation)
    if len(labels.unique()) == len(labels):
        return _solve_alternately(magnitudes, probabilities[:, labels], *bounds, generator)
    solutions: list[UnmixedImages] = []
    for split in range(_SPLITS):
        free = torch.rand(len(values), len(labels), dtype=torch.float64, generator=generator)
        free = free if split else similarities(magnitudes, probabilities, labels)
        start = _solve_alternately(magnitudes, _normalise_weights(free, probabilities, labels), *bounds, generator)
        solutions += _refine(start, magnitudes, probabilities, labels, bounds, generator)
    return min(solutions, key=lambda solution: solution.residual)


def regress_together(
    observation: Observation, batches: Sequence[Encodings], generator: torch.Generator
) -> UnmixedImages:
    """Return the images of the first batch's encodings, solved together with the encodings of other batches.

    Every batch is first solved alone. Similar images of equal classes then count as the same image and are solved again
    with all encodings that hold them; the result is kept only if it explains the encodings.

    Args:
        observation: gives the pixel range and the shape of an image.
        batches: encodings of one client; the first batch is the batch to solve.
        generator: random source of the starts.
    """
    unmixed = [regress(observation, batch, generator) for batch in batches]
    if len(batches) == 1:
        return unmixed[0]
    places, labels = _link(unmixed, batches)
    weights = torch.zeros(sum(len(batch.values) for batch in batches), len(labels), dtype=torch.float64)
    row = 0
    for encoded, columns in zip(unmixed, places, strict=True):
        weights[row : row + len(encoded.weights), columns] = encoded.weights
        row += len(encoded.weights)
    magnitudes, bounds = torch.cat([batch.values for batch in batches]).double().abs(), _range(observation)
    solutions = [_solve_alternately(magnitudes, weights, *bounds, generator)]
    if any(len(batch.labels.unique()) < len(batch.labels) for batch in batches):
        sums = weights @ F.one_hot(labels, batches[0].probabilities.shape[1]).double()
        solutions += _refine(solutions[0], magnitudes, sums, labels, bounds, generator)
    best = min(solutions, key=lambda solution: solution.residual)
    if best.residual > _EXPLAINED:
        return unmixed[0]
    own_rows = best.weights[: len(batches[0].values)]
    return UnmixedImages(best.inputs[places[0]], own_rows[:, places[0]], best.residual)


def _link(unmixed: Sequence[UnmixedImages], batches: Sequence[Encodings]) -> tuple[list[list[int]], Tensor]:
    """Return, for every batch, its images' indices among the client's images; and the labels of the client's images."""
    known: list[Tensor] = []
    labels: list[int] = []
    places: list[list[int]] = []
    for images, batch in zip(unmixed, batches, strict=True):
        columns: list[int] = []
        for image, label in zip(images.inputs, batch.labels.tolist(), strict=True):
            free = [place for place in range(len(known)) if labels[place] == label and place not in columns]
            likeness = {place: float(torch.corrcoef(torch.stack((known[place], image)))[0, 1]) for place in free}
            nearest = max(likeness, key=likeness.__getitem__, default=None)
            if nearest is None or likeness[nearest] < _ALIKE:
                nearest = len(known)
                known.append(image)
                labels.append(label)
            columns.append(nearest)
        places.append(columns)
    return places, torch.tensor(labels)


def _refine(
    start: UnmixedImages,
    magnitudes: Tensor,
    probabilities: Tensor,
    labels: Tensor,
    bounds: tuple[Tensor, Tensor],
    generator: torch.Generator,
) -> list[UnmixedImages]:
    """Return the solutions after each of several alternations between weights and images."""
    solutions = [start]
    for _ in range(_REWEIGHTINGS):
        weights = _reweight(magnitudes, solutions[-1], probabilities, labels)
        solutions.append(_solve_alternately(magnitudes, weights, *bounds, generator))
    return solutions


def similarities(magnitudes: Tensor, probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return the similarity of every encoding to the leading encoding of every image, shape (N, M), in (0, 1].

    Encodings of the same image have similar absolute values. The leading encoding of a class's first image has the
    largest share of that class. The leading encoding of each further image has a large share of the class and is least
    similar to the leading encodings so far.

    Args:
        magnitudes: |y|, shape (N, d).
        probabilities: labels of the encodings, shape (N, K).
        labels: labels of the images, shape (M,).
    """
    alike = torch.corrcoef(magnitudes).nan_to_num().clamp(_RIDGE, 1.0)
    columns = torch.ones(len(magnitudes), len(labels), dtype=torch.float64)
    for label in labels.unique():
        share = probabilities[:, label]
        leaders: list[Tensor] = []
        for image in (labels == label).nonzero()[:, 0]:
            strangeness = torch.stack([1.0 - leader for leader in leaders]).amin(0) if leaders else 1.0
            leaders.append(alike[(share * strangeness).argmax()])
            columns[:, image] = leaders[-1]
    return columns


def _solve_alternately(
    magnitudes: Tensor, weights: Tensor, low: Tensor, high: Tensor, generator: torch.Generator
) -> UnmixedImages:
    """Solve alternately for signs and images from many starts; every pixel keeps its best start."""
    inverse = torch.linalg.pinv(weights)
    images = _starts(magnitudes, weights, low, high, generator)
    for _ in range(_TURNS):
        signed = magnitudes * _signs(weights @ images)
        images = (inverse @ signed).clamp(low, high)
    images = torch.cat((images, (-images).clamp(low, high)))
    errors = _errors(images, weights, magnitudes)
    best = _likeliest(images, errors, low, high)
    chosen = images.gather(0, best.expand(1, images.shape[1], -1)).squeeze(0)
    return UnmixedImages(chosen, weights, float(errors.gather(0, best[None]).mean().sqrt()))


def _starts(magnitudes: Tensor, weights: Tensor, low: Tensor, high: Tensor, generator: torch.Generator) -> Tensor:
    """Return first images, shape (S, M, d): solutions of M mixtures under all signs, or random images for large M.

    With correct weights, one of the solutions is the truth.
    """
    from scipy.linalg import qr  # noqa: PLC0415 - importing SciPy takes longer than many runs

    images = weights.shape[1]
    if images > _ENUMERATED or len(weights) < images:
        shape = (_STARTS, images, magnitudes.shape[1])
        return low + (high - low) * torch.rand(shape, dtype=torch.float64, generator=generator)
    order = cast("Any", qr(weights.T.numpy(), mode="r", pivoting=True))[1]
    rows = order[:images].tolist()  # the most independent rows
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=images)), dtype=torch.float64)
    starts = (torch.linalg.pinv(weights[rows]) @ (signs[..., None] * magnitudes[rows])).clamp(low, high)
    if len(starts) <= _STARTS:
        return starts
    errors = torch.cat([_errors(chunk, weights, magnitudes) for chunk in starts.split(_STARTS)])
    best = errors.topk(_STARTS, dim=0, largest=False).indices
    return starts.gather(0, best[:, None].expand(-1, images, -1))


def _errors(images: Tensor, weights: Tensor, magnitudes: Tensor) -> Tensor:
    """Return mean squared errors of images (S, M, d), shape (S, d)."""
    return ((weights @ images).abs() - magnitudes).square().mean(1)


def _likeliest(images: Tensor, errors: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return for every pixel the index of its start, shape (d,): of the starts that explain it, the likeliest values.

    Args:
        images: starts, shape (S, M, d).
        errors: errors of each pixel, shape (S, d).
        low: black, shape (d,).
        high: white, shape (d,).
    """
    fits = errors <= _TOLERANCE + 2.0 * errors.amin(0)
    ends = (((images - low).abs() < _SATURATED) | ((images - high).abs() < _SATURATED)).double().sum(1)
    brightness = ((images - low) / (high - low)).mean(1)
    return torch.where(fits, ends - brightness, -torch.inf).argmax(0)


def _reweight(magnitudes: Tensor, images: UnmixedImages, probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return weights that fit the images better; zeros and the sum over each class do not change."""
    signed = magnitudes * _signs(images.weights @ images.inputs)
    free = torch.linalg.lstsq(images.inputs.T, signed.T, driver="gelsd").solution.T
    return _normalise_weights(free.clamp_min(_RIDGE) * (images.weights > 0), probabilities, labels)


def _normalise_weights(free: Tensor, probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return weights (N, M), proportional to `free` within a class, that sum to the class's probability."""
    classes = F.one_hot(labels, probabilities.shape[1]).double()
    sums = (free @ classes)[:, labels].clamp_min(_RIDGE)
    return free / sums * probabilities.clamp_min(0.0)[:, labels]


def _signs(values: Tensor) -> Tensor:
    return torch.where(values < 0, -1.0, 1.0).to(values)


def _range(observation: Observation) -> tuple[Tensor, Tensor]:
    """Return the normalised values of black and white for every entry of an example, each of shape (d,)."""
    low, high = (bound.expand(observation.spec.shape).flatten().double() for bound in pixel_box(observation))
    return low, high


def _oddness(observation: Observation, images: Tensor) -> float:
    """Return a penalty for images outside the pixel range and for rough images."""
    low, high = _range(observation)
    excess = (images - images.clamp(low, high)).abs().mean()
    return float(excess + total_variation(images.view(1, -1, *observation.spec.shape))[0])
