"""Reconstruction from units that isolate single examples, for attacks of malicious servers.

A unit whose gradient comes from a single example gives that example: x = dW_r / db_r. Its db_r = dL/dz_r shows the
label, since the attacker can repeat the forward pass for every class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks.core.gradient_distance import verdict
from attacks.core.labels import infer_labels
from attacks.core.pixels import pixel_box
from attacks.core.results import blanks, no_guess
from attacks.core.targets.reading import label_guess
from fedsim.core.errors import NotApplicable
from fedsim.core.nets.layer_calls import layer_outputs
from fedsim.core.nets.masks import disable_dropout
from fedsim.core.types import Observation, OnStep, Reconstruction, Step

_ROUNDING = 16.0


@dataclass(frozen=True)
class Singles:
    """Examples, each recovered from the gradient of one unit, the most certain first.

    Attributes:
        examples: shape (G, *shape).
        units: index of each example's unit, shape (G,).
        coefficients: each example's part in its unit's bias gradient, shape (G,), float64.
    """

    examples: Tensor
    units: Tensor
    coefficients: Tensor

    def select(self, places: Tensor) -> Singles:
        """Return the examples at the given indices, in that order."""
        return Singles(self.examples[places], self.units[places], self.coefficients[places])


def exceeds_rounding(bias: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the mask of entries of a bias gradient (k,), or of its differences, that exceed rounding in `dtype`."""
    return bias.abs() > _ROUNDING * torch.finfo(dtype).eps * bias.abs().max()


def distinct(
    singles: Singles, rows: Tensor, layer: tuple[Tensor, Tensor], agrees: Tensor, is_alike: Tensor
) -> tuple[Tensor, int]:
    """Return the indices of distinct guesses, most agreeing units first, and the number of guesses of several units.

    A guess of a single unit is a mixture if that unit is active for an example that was already recovered.

    Args:
        singles: the guesses, of G units.
        rows: the guesses as inputs of the layer, shape (G, n).
        layer: weight (k, n) and bias (k,) that clients received.
        agrees: mask of pairs that agree up to rounding, shape (G, G).
        is_alike: mask of pairs that show the same example, shape (G, G).
    """
    weight, bias = layer
    supports, strength = agrees.sum(1), singles.coefficients.abs()
    order = sorted(range(len(rows)), key=lambda g: (-int(supports[g]), -float(strength[g])))
    fires = (
        weight[singles.units] @ rows.T + bias[singles.units, None] > 0
    )  # (G, G): the unit of the row, the input of the column
    kept: list[int] = []
    for place in order:
        if not fires[place, place]:
            continue
        is_known = bool(is_alike[place, kept].any())
        is_mixture = int(supports[place]) == 1 and bool(fires[place, kept].any())
        if not is_known and not is_mixture:
            kept.append(place)
    agreed = sum(int(supports[place]) > 1 for place in kept)
    return torch.tensor(kept, dtype=torch.long), agreed


def is_in_pixel_range(examples: Tensor, observation: Observation, tolerance: float) -> Tensor:
    """Return the mask of examples (G, *shape) in the pixel range, shape (G,); all True if the normalisation is unknown.

    Args:
        examples: normalised.
        observation: with the normalisation, if it is known.
        tolerance: allowed excess, in units of the range.
    """
    if "input-statistics" not in observation.threat.knows:
        return torch.ones(len(examples), dtype=torch.bool)
    low, high = (bound.to(examples.dtype) for bound in pixel_box(observation))
    slack = tolerance * (high - low)
    return ((examples >= low - slack) & (examples <= high + slack)).flatten(1).all(1)


def expected_examples(observation: Observation) -> int | None:
    """Return the number of examples in the update, an upper bound for several steps; None if unknown."""
    if observation.labels is not None:
        return len(observation.labels)
    if observation.examples is not None:
        return observation.examples
    return None if observation.batch_size is None else observation.batch_size * observation.local_steps


def reconstruction(
    observation: Observation,
    layer: str,
    singles: Singles,
    on_step: OnStep,
    *,
    diagnostics: Mapping[str, float],
    notes: tuple[str, ...],
) -> Reconstruction:
    """Return the recovered examples, at most as many as the update holds, and their labels.

    Args:
        observation: inputs of the attack.
        layer: name of the units' linear layer.
        singles: the recovered examples; may be empty.
        on_step: called once.
        diagnostics: figures of the attack.
        notes: notes of the attack.
    """
    size = expected_examples(observation) or max(1, len(singles.examples))
    singles = singles.select(torch.arange(min(size, len(singles.examples))))
    count = len(singles.examples)
    guess = singles.examples.to(next(observation.model.parameters()).dtype)
    whole = torch.cat([guess, blanks(observation, size - count)])
    labels = _labels(observation, layer, singles, whole)
    residual = (1.0 - count / size, "share of the examples that were not found")
    is_repeatable = not observation.sites and observation.local_steps == 1
    objective, meaning = verdict(observation, whole, labels, () if is_repeatable else None, residual)
    on_step(Step(0, 1, 1, objective, objective, guess))
    diagnostics = {**diagnostics, "examples returned": float(count)}
    if not count:
        return no_guess(observation, "gave up: no unit shows an example", notes=notes, diagnostics=diagnostics)
    return Reconstruction.of(
        inputs=guess,
        labels=labels[:count],
        objective=objective,
        iterations=1,
        stop_reason=f"read {count} of {size} examples off the gradient",
        notes=(*notes, f"nothing was found for {size - count} of {size} examples", meaning),
        diagnostics=diagnostics,
    )


def _labels(observation: Observation, layer: str, singles: Singles, whole: Tensor) -> Tensor:
    """Return one label per guess, shape (size,): the classes with the loss that best explains the coefficients.

    Other label kinds are inferred from the gradient.

    If the labels of the batch are known or can be counted, each is used at most once. Otherwise every example gets the
    class that fits best.
    """
    size = len(whole)
    if observation.task.label_kind != "class":
        return label_guess(observation, whole, None if observation.sites else ()).labels
    known = _known_labels(observation)
    if known is None:
        nearest = _mismatch(observation, layer, singles, torch.arange(observation.spec.classes), size).argmin(1)
        return torch.cat([nearest, nearest.new_zeros(size - len(nearest))])
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - a run without attacks need not wait for SciPy

    rows, columns = linear_sum_assignment(_mismatch(observation, layer, singles, known, size).numpy())
    order = torch.as_tensor(columns)[torch.as_tensor(rows).argsort()]
    is_free = torch.ones(size, dtype=torch.bool)
    is_free[order] = False
    return torch.cat([known[order], known[is_free]])


def _known_labels(observation: Observation) -> Tensor | None:
    """Return the labels of all examples, or None."""
    if observation.local_steps > 1:
        return None
    if observation.labels is not None:
        return observation.labels
    if observation.batch_size is None:
        return None
    try:
        return infer_labels(observation)
    except NotApplicable:
        return None


def _mismatch(observation: Observation, layer: str, singles: Singles, labels: Tensor, size: int) -> Tensor:
    """Return |predicted - observed coefficient| of every example and label, shape (G, L), without dropout."""
    predicted = torch.zeros(len(singles.examples), len(labels), dtype=torch.float64)
    if not len(singles.examples):
        return predicted
    model = observation.working_copy("train", torch.float64)
    step = observation.learning_rate if observation.update.kind == "delta" else 1.0
    scale = step * observation.local_steps / size
    for label in labels.unique():
        with disable_dropout(), layer_outputs(model, [layer]) as seen:
            predictions = model(singles.examples.double())
        loss = observation.loss(predictions, label.expand(len(predictions))) * len(predictions)
        (slopes,) = torch.autograd.grad(loss, [seen[-1][1]])
        coefficients = slopes.gather(1, singles.units[:, None])
        predicted = torch.where(labels == label, scale * coefficients, predicted)
    return (predicted - singles.coefficients[:, None]).abs()


def linear(model: nn.Module, name: str) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a linear layer in float64, detached."""
    return tuple(model.get_parameter(f"{name}.{part}").detach().double() for part in ("weight", "bias"))  # type: ignore[return-value]
