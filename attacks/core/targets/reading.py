"""Infer targets from a gradient with known inputs, for any loss: least squares, then the loss itself.

Residuals of the outputs follow by least squares (`_residuals.py`). The target of an example is the target that
reproduces the observed residual under the client's own loss (`_slopes.py`). Each kind of label has its own search;
several heads are inferred one by one, each from the residuals of its own outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from attacks.core.defense_facts import bound_of, inexact
from attacks.core.labels import examples_of, labels_of
from attacks.core.preconditions import one_gradient_only
from attacks.core.results import blanks, labels_or_unknown, unknown_labels
from attacks.core.targets._classes import read_classes
from attacks.core.targets._numbers import read_numbers
from attacks.core.targets._residuals import (
    Residuals,
    head_of,
    residuals_by_all_layers,
    residuals_of_batch,
    residuals_of_one,
)
from attacks.core.targets._sets import read_sets
from attacks.core.targets._slopes import Slope, UnfitTargets, identity, outputs_behind, slope_of
from attacks.core.targets._values import Targets
from attacks.core.tolerances import EXACT
from fedsim.core.errors import NotApplicable
from fedsim.core.types import LabelHead, Masks, Observation, slice_heads


class LabelledGuess(NamedTuple):
    """Labels of a guess, shape (B, *label_shape), with notes for the record."""

    labels: Tensor
    notes: tuple[str, ...] = ()


def label_guess(
    observation: Observation, inputs: Tensor, masks: Masks | None, otherwise: Tensor | None = None
) -> LabelledGuess:
    """Return the labels of guessed inputs: inferred if complete, else `otherwise`, else granted or partial labels.

    Args:
        observation: inputs of the attack.
        inputs: guessed examples, shape (B, *shape).
        masks: one per site, or None if some are unknown.
        otherwise: labels that the attack has in place of granted or inferred labels.
    """
    targets = read_targets(observation, inputs, masks)
    if targets is not None and targets.is_whole:
        return LabelledGuess(targets.values, (targets.summary,))
    if otherwise is not None:
        return LabelledGuess(otherwise)
    if observation.task.label_kind == "class" or observation.labels is not None:
        return LabelledGuess(labels_or_unknown(observation, len(inputs)))
    if targets is None:
        return LabelledGuess(unknown_labels(observation, len(inputs)), ("no target is read from the gradient",))
    return LabelledGuess(targets.values, (targets.summary,))


def labels_to_search(observation: Observation) -> Tensor:
    """Return the labels of a batch with unknown inputs, shape (B, *label_shape).

    The labels are granted, inferred classes, or the targets of a single example, inferred from the output layer alone.

    Raises:
        NotApplicable: the gradient does not determine the labels.
    """
    if observation.labels is not None or observation.task.label_kind == "class":
        return labels_of(observation)
    targets = read_targets(observation, blanks(observation, 1), None) if examples_of(observation) == 1 else None
    if targets is None or not targets.is_whole:
        raise NotApplicable(
            f"the labels are {observation.task.labels_in_words}, which the output layer reveals only for a "
            "single example, and only under some losses. Add 'labels' to threat.knows"
        )
    return targets.values


def read_targets(observation: Observation, inputs: Tensor, masks: Masks | None) -> Targets | None:
    """Return the targets of a batch with known inputs; None if the output layer does not determine them.

    The result is None if the gradient is hidden, inexact, clipped or of several steps, if a batch has more examples
    than the layer has inputs, and if two examples have equal features.

    Args:
        observation: gives the model, the loss and the update.
        inputs: inputs of the whole batch, shape (B, *shape). For a single example any input works: only the gradient is
            used.
        masks: one per site in front of the layer; None if unknown, which suffices for a single example.
    """
    if not len(inputs) or one_gradient_only(observation) or inexact(observation) or _is_clipped(observation):
        return None
    model = observation.working_copy(dtype=torch.float64).requires_grad_(False)
    answered = _compute_residuals(observation, model, inputs, masks)
    if answered is None:
        return None
    try:
        targets = _targets_of(observation, *answered)
    except UnfitTargets:
        return None
    if targets is None or not targets.values.is_floating_point():
        return targets
    return replace(targets, values=targets.values.to(next(observation.model.parameters()).dtype))


def _compute_residuals(
    observation: Observation, model: nn.Module, inputs: Tensor, masks: Masks | None
) -> tuple[Residuals, Slope] | None:
    """Return outputs with their residuals, and the function from other targets to residuals."""
    head = head_of(observation)
    residuals = residuals_of_one(head) if head is not None and len(inputs) == 1 else None
    if head is not None and residuals is None:
        residuals = residuals_of_batch(observation, model, head, inputs, masks)
    if head is None or residuals is None:
        residuals = residuals_by_all_layers(observation, model, inputs, masks)
        return None if residuals is None else (residuals, slope_of(observation, residuals.outputs, identity))
    outputs_after = outputs_behind(observation, model, head.name, len(inputs))
    whole = outputs_after(residuals.outputs)
    if not torch.equal(whole.flatten(), residuals.outputs.flatten()):
        return residuals, slope_of(observation, residuals.outputs, outputs_after)
    shaped = Residuals(whole, residuals.values.view(whole.shape))
    return shaped, slope_of(observation, whole, identity)


def _targets_of(observation: Observation, residuals: Residuals, slope: Slope) -> Targets | None:
    kind, shape = observation.task.label_kind, observation.label_shape
    if kind == "heads":
        return read_heads(residuals, slope, observation.spec.heads)
    if kind == "numbers":
        return read_numbers(residuals, slope, shape)
    if kind == "set" or (kind == "mask" and shape == residuals.values.shape[1:]):
        return read_sets(residuals, slope, shape)
    return read_classes(residuals, slope, shape)


def _is_clipped(observation: Observation) -> bool:
    """Return whether a known defense has clipped the gradient, by an unknown factor."""
    bound = bound_of(observation)
    if bound is None:
        return False
    norm = sum(float(tensor.double().square().sum()) for tensor in observation.update.tensors.values()) ** 0.5
    return norm > (1.0 - EXACT) * bound


def read_heads(residuals: Residuals, slope: Slope, heads: Sequence[LabelHead]) -> Targets:
    """Return the labels of all heads in one row; numbers last, since a loss may count them for some classes only."""
    shape = len(residuals.values), sum(head.labels for head in heads)
    values = torch.full(shape, torch.nan, dtype=torch.float64)
    are_read, are_bounded = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    for head, labels, outputs in sorted(slice_heads(heads), key=lambda place: place[0].kind == "numbers"):
        of_head = Residuals(*(part.flatten(1)[:, outputs] for part in residuals))
        targets = _read_head(head, of_head, _slope_of_head(slope, values.nan_to_num(), labels, outputs))
        if targets is not None:
            read, bounded, said = (
                part.view(shape[0], -1) for part in (targets.are_read, targets.are_bounded, targets.values)
            )
            are_read[:, labels], are_bounded[:, labels] = read, bounded
            values[:, labels] = said.double().where(read | bounded, torch.nan)
    return Targets(values, are_read, are_bounded)


def _read_head(head: LabelHead, residuals: Residuals, slope: Slope) -> Targets | None:
    """Return the labels of one head.

    Args:
        head: gives the kind of the labels.
        residuals: residuals of the head's outputs, shape (B, outputs).
        slope: function from the head's labels (B, labels) to the residuals of its outputs.
    """
    if head.kind == "numbers":
        return read_numbers(residuals, slope, (head.labels,))
    if head.kind == "set":
        return read_sets(residuals, slope, (head.labels,))
    maps = Residuals(*(part.unflatten(1, (head.classes, *head.shape)) for part in residuals))
    return read_classes(maps, lambda labels: slope(labels.view(len(labels), -1)).view(maps.values.shape), head.shape)


def _slope_of_head(slope: Slope, row: Tensor, labels: slice, outputs: slice) -> Slope:
    """Return the function from a head's labels to the residuals of its outputs; labels of other heads stay fixed."""

    def of_head(targets: Tensor) -> Tensor:
        whole = torch.cat([row[:, : labels.start], targets.to(row), row[:, labels.stop :]], 1)
        return slope(whole).flatten(1)[:, outputs]

    return of_head
