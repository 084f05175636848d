"""key-readout: infer the used keys of a batch from the gradient of the values, then encoder outputs and images.

Idea: a step on a key-value bottleneck changes only the values that the batch read. Their rows show labels and, in each
    codebook c, the cell of each record. Keys, projections P_c and the frozen encoder are public.
Equation: dL/dV[c, j] = (1 / (B C)) sum over the readers of (softmax - target); P_c^T e = k_c,j* for the output e.
Assumes: honest-but-curious server, the gradient of a single step; an unknown batch size counts as 1. Records of equal
    labels are separated by the residual of their equations, which needs more equations (C d_k) than unknowns (m).
Recovers: labels, cells, encoder outputs, and images by descent through the encoder.
Fails: noise as large as a value's gradient; positions of a feature map (only cells and labels); several keys per
    codebook with several records of equal labels; a linear decoder; several local steps.
Source: the bottleneck: Traeuble et al. 2023, arXiv 2207.11240, which describes no attack.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from pydantic import Field
from torch import Tensor, nn

from attacks.codebooks._features_from_keys import coarseness, group, solve_points
from attacks.core.fired_rows import find_fired_rows, noise_variance
from attacks.core.labels import count_labels
from attacks.core.matching.optimizers import Cosine, RowAdam
from attacks.core.matching.priors.total_variation import total_variation
from attacks.core.mean_gradient import gradient_weight
from attacks.core.outlooks import outlook_of
from attacks.core.pixels import pixel_box
from attacks.core.preconditions import one_gradient_only
from attacks.core.results import no_examples, no_guess
from fedsim.components.bottleneck.key_value_bottleneck import bottleneck_of
from fedsim.components.core.key_value import KeyValueModel, VotingDecoder, nearest
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import Attack, CostEstimate, Effort, Tables
from fedsim.core.registry import attack
from fedsim.core.types import Config, Observation, OnStep, Reconstruction, Step

_COMPONENT = "key-value-bottleneck"
_CLEAR = 3.0  # standard deviations of the noise
_HISTORY_POINTS = 200


class KeyReadoutConfig(Config):
    """Settings of key-readout."""

    max_iterations: int = Field(default=300, ge=0, description="iterations of the descent to images; 0: keys alone")
    learning_rate: float = Field(default=0.1, gt=0, description="Adam's step, in normalised units; it falls to 0")
    total_variation: float = Field(
        default=0.2, ge=0, description="weight of the total variation, next to the relative distance to the keys"
    )
    ridge: bool = Field(
        default=True, description="allow for the width of the cells when solving; false: plain least squares"
    )


@dataclass(frozen=True)
class _Read:
    """Keys of the records, inferred from the gradient.

    Attributes:
        targets: key of each record in every codebook, or the mean of its candidate keys, shape (B, C, d).
        is_known: True where the key was inferred, boolean, shape (B, C).
    """

    targets: Tensor
    is_known: Tensor


@final
@attack(
    "key-readout", summary="keys that were read, the encoder's output, images", tier="research", related="2207.11240"
)
class KeyReadout(Attack[KeyReadoutConfig]):
    """Recovers cells, labels, encoder outputs and images from one step on a key-value bottleneck."""

    effort: ClassVar[Effort] = "descent"
    example: ClassVar[Tables] = {
        "model": {"name": "mlp", "width": 24, "depth": 1, "dropout": 0.25},
        "components": [{"name": "key-value-bottleneck", "codebooks": 4, "pairs": 16, "key_width": 4, "passes": 2}],
    }

    @classmethod
    def settings_for_budget(cls, gradients: int) -> dict[str, Any]:
        """Return this number of iterations."""
        return {"max_iterations": gradients}

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse models without a voting bottleneck, updates without the values' gradient, and several local steps."""
        try:
            model = bottleneck_of(observation.model)
        except NotApplicable as reason:
            return str(reason)
        if not isinstance(model.decoder, VotingDecoder):
            return "the values behind its keys are not logits (decoder = 'voting'), so they show no labels"
        if _values_name(observation, model) not in observation.update.tensors:
            return "the gradient of the values is not shared"
        return one_gradient_only(observation)

    def outlook(self, observation: Observation) -> CostEstimate:
        """Expect steps of a first-order descent, which cost two gradients."""
        return outlook_of(observation, 2.0 * self.config.max_iterations, 0.05, "keys show features roughly")

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Infer cells and labels, solve for the encoder outputs, then descend to images."""
        model = bottleneck_of(observation.model)
        like, size = next(model.parameters()), observation.batch_size or 1
        grey = torch.zeros((size, *observation.spec.shape), dtype=like.dtype)
        with torch.no_grad():
            outputs = model.features(grey[:1])[0]
        gradient = _gradient(observation, model)
        cells = _cells(gradient, model.lookup.active, size * len(outputs))
        labels = observation.labels if observation.labels is not None else _labels(model, gradient, cells, grey)
        readings = {f"{_COMPONENT}.cells": cells}
        diagnostics = {"cells read": float(cells.sum())}
        if outputs.shape[0] > 1:
            notes = ("no image: positions of a feature map cannot be separated",)
            on_step(Step(0, 1, 1, 0.0, 0.0, no_examples(observation)))
            readings[f"{_COMPONENT}.labels"] = labels
            return no_guess(observation, "cells read off", notes=notes, diagnostics=diagnostics, extras=readings)
        read, voting = _share_out(model, gradient, cells, labels, grey, outputs[0], generator)
        if noise_variance(gradient):
            readings[f"{_COMPONENT}.cells"] = voting
        ridge = coarseness(model.lookup.keys) if self.config.ridge else 0.0
        features = solve_points(model.lookup.projections, read.targets, read.is_known, outputs[0], ridge).to(like.dtype)
        readings[f"{_COMPONENT}.features"] = features
        if model.lookup.active == 1:
            keys = nearest(read.targets.transpose(0, 1), model.lookup.keys, 1)[..., 0].mT
            readings[f"{_COMPONENT}.keys"] = keys.masked_fill(~read.is_known, -1)
        diagnostics["equations per unknown"] = read.targets[0].numel() / features.shape[1]
        diagnostics["share of the keys known"] = float(read.is_known.float().mean())
        if not self.config.max_iterations:
            on_step(Step(0, 1, 1, 0.0, 0.0, no_examples(observation)))
            notes = ("only keys are read, no image",)
            readings[f"{_COMPONENT}.labels"] = labels
            return no_guess(observation, "keys read off", notes=notes, diagnostics=diagnostics, extras=readings)
        images, history = self._descend_images(observation, model, read, grey, on_step)
        last, value = history[-1]
        return Reconstruction.of(
            images,
            labels,
            objective=value,
            iterations=last,
            history=history,
            stop_reason="all iterations done",
            diagnostics=diagnostics,
            extras=readings,
        )

    def _descend_images(
        self, observation: Observation, model: KeyValueModel, read: _Read, grey: Tensor, on_step: OnStep
    ) -> tuple[Tensor, tuple[tuple[int, float], ...]]:
        """Descend from grey images to images with heads near the keys; return images and objective history."""
        config, (low, high) = self.config, pixel_box(observation)
        inputs, weights = grey.clone().requires_grad_(), read.is_known.to(grey)[..., None]
        scale = max(float((weights * (read.targets - _heads(model, grey).detach()).square()).sum()), 1e-12)

        def objective() -> Tensor:
            distance = (weights * (_heads(model, inputs) - read.targets).square()).sum() / scale
            return distance + config.total_variation * total_variation(inputs[None])[0]

        adam, schedule = RowAdam([inputs]), Cosine(config.max_iterations)
        values: list[float] = []
        for iteration in range(1, config.max_iterations + 1):
            value = objective()
            gradients = torch.autograd.grad(value, [inputs])
            factors = schedule.factors(iteration - 1, inputs.new_zeros(len(inputs)))
            adam.step([inputs], gradients, [config.learning_rate * factors])
            with torch.no_grad():
                inputs.copy_(inputs.clamp(low, high))
            values.append(float(value.detach()))
            on_step(Step(0, iteration, config.max_iterations, values[-1], min(values), inputs.detach()))
        stride = max(1, len(values) // _HISTORY_POINTS)
        thinned = [(i + 1, v) for i, v in enumerate(values) if i % stride == 0 or i + 1 == len(values)]
        return inputs.detach(), tuple(thinned)


def _heads(model: KeyValueModel, inputs: Tensor) -> Tensor:
    """Return the projections of the encoder's outputs for inputs, shape (B, C, d)."""
    return model.lookup.heads(model.features(inputs)).transpose(0, 1)


def _values_name(observation: Observation, model: KeyValueModel) -> str:
    entries = model.table.entries.weight
    return next(name for name, parameter in observation.model.named_parameters() if parameter is entries)


def _gradient(observation: Observation, model: KeyValueModel) -> Tensor:
    """Return the gradient of the values, shape (C, J, K)."""
    sent = observation.update.tensors[_values_name(observation, model)]
    return sent.unflatten(0, (-1, model.table.pairs)) / gradient_weight(observation)


def _cells(gradient: Tensor, active: int, records: int) -> Tensor:
    """Return the mask of used pairs, boolean (C, J): at least `active` per codebook, at most `active * records`."""
    order = gradient.square().sum(-1).argsort(-1, descending=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1]).expand_as(order))
    return (rank < active) | (find_fired_rows(gradient) & (rank < active * records))


def _labels(model: KeyValueModel, gradient: Tensor, cells: Tensor, grey: Tensor) -> Tensor:
    """Infer the labels of all records from the sum of the rows of used pairs, which is the mean of softmax - target.

    For a single record, each label is scored by its projection on the best row of every codebook, summed over
    codebooks: noise disturbs this sum less.
    """
    if len(grey) == 1:
        return (gradient @ _residuals(model, grey).mT).amax(1).sum(0).argmax().view(1)
    with torch.no_grad():
        probabilities = model(grey[:1])[0].softmax(-1)
    return count_labels(gradient[cells].sum(0), probabilities, len(grey))


def _residuals(model: KeyValueModel, grey: Tensor) -> Tensor:
    """Return the normalised softmax - target for each label, with the softmax of a grey image, shape (K, K)."""
    with torch.no_grad():
        probabilities = model(grey[:1])[0].softmax(-1)
    return nn.functional.normalize(probabilities - torch.eye(len(probabilities), dtype=grey.dtype))


def _share_out(
    model: KeyValueModel,
    gradient: Tensor,
    cells: Tensor,
    labels: Tensor,
    grey: Tensor,
    origin: Tensor,
    generator: torch.Generator,
) -> tuple[_Read, Tensor]:
    """Assign a key per codebook to every record: the cells whose rows project most on the record's label.

    Returns:
        The keys of the records, and the mask of the cells that were assigned, boolean (C, J).
    """
    lookup, floor, taken = model.lookup, _CLEAR * noise_variance(gradient) ** 0.5, torch.zeros_like(cells)
    codebooks, pairs, width = lookup.keys.shape
    targets = lookup.keys.new_zeros(len(labels), codebooks, width)
    known = torch.zeros(len(labels), codebooks, dtype=torch.bool)
    votes = gradient @ _residuals(model, grey).mT
    for label, count in zip(*labels.unique(return_counts=True), strict=True):
        records, number = (labels == label).nonzero().flatten(), min(pairs, int(count) * lookup.active)
        candidates = gradient[..., label] < 0 if floor else cells & (gradient[..., label] < 0)
        strongest = votes[..., label].masked_fill(~candidates, -torch.inf).topk(number)
        valid = (strongest.values > floor) | (torch.arange(number) < lookup.active) & strongest.values.isfinite()
        taken |= torch.zeros_like(cells).scatter(1, strongest.indices, valid)
        keys = lookup.keys.gather(1, strongest.indices[..., None].expand(-1, -1, width))
        if int(count) == 1 or lookup.active > 1:  # several records with several reads share their mean
            mean = (keys * valid[..., None]).sum(1) / valid.sum(1, keepdim=True).clamp_min(1)
            targets[records], known[records] = mean, valid.any(1)
            continue
        seen = valid.any(1)
        if not bool(seen.any()):
            continue
        chosen = group(lookup.projections[:, seen], keys[seen], valid[seen], origin, generator)
        rows = torch.arange(int(seen.sum()))
        known[records] = seen
        targets[records[:, None], seen.nonzero().flatten()] = keys[seen][rows, chosen]
    return _Read(targets, known), taken
