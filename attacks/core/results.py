"""What attacks return, also when they found nothing.

An attack that cannot run on an observation refuses: `not_applicable` returns the reason, or `NotApplicable` is raised
before the search; the record holds a failure. A search that ran returns the examples that it found, and no others: the
missing ones get the worst scores. Where it found none it returns `no_guess`, whose word for `stopped` says why. No
picture stands for an example that was not found, since a grey one would be scored as a guess.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from attacks.core.labels import blank_labels, labels_of
from fedsim.core.errors import NotApplicable
from fedsim.core.types import NO_LABEL, Observation, Reconstruction, Tensors


class NothingFound(Exception):
    """A part of a search ended without a result, and why, as the end of a sentence."""


def no_guess(
    observation: Observation,
    reason: str,
    *,
    iterations: int = 1,
    notes: tuple[str, ...] = (),
    facts: Mapping[str, float] | None = None,
    extras: Tensors | None = None,
) -> Reconstruction:
    """Return a guess without examples, whose objective is infinite.

    Args:
        observation: what the attack got.
        reason: why nothing was found, for `stopped`.
        iterations: what the attack counted until then.
        notes: for the reader of a record.
        facts: figures that explain it.
        extras: what else was read.
    """
    return Reconstruction(
        inputs=no_examples(observation),
        labels=torch.zeros(0, dtype=torch.long),
        masks=None,
        objective=math.inf,
        iterations=iterations,
        best_iteration=iterations,
        history=(),
        stopped=reason,
        notes=notes,
        facts=dict(facts or {}),
        extras=dict(extras or {}),
    )


def no_examples(observation: Observation) -> Tensor:
    """Return no examples, shape (0, *shape)."""
    return blanks(observation, 0)


def blanks(observation: Observation, size: int) -> Tensor:
    """Return zeros where a forward pass or a step needs examples that nobody found, shape (size, *shape)."""
    dtype = observation.spec.dtype or next(observation.model.parameters()).dtype
    return torch.zeros((size, *observation.spec.shape), dtype=dtype)


def labels_or_unknown(observation: Observation, size: int) -> Tensor:
    """Return granted or inferred labels, shape (size, *label_shape); if too many or few, the most frequent class.

    Unknown where the gradient of the last layer is hidden, the model has no last layer with one row per class, or
    labels are no classes.
    """
    try:
        labels = labels_of(observation)
    except NotApplicable:
        return unknown_labels(observation, size)
    if len(labels) == size:
        return labels.clone()
    is_class = observation.task.label_kind == "class"
    return labels.mode().values.expand(size).clone() if is_class else unknown_labels(observation, size)


def unknown_labels(observation: Observation, size: int) -> Tensor:
    """Return labels that nobody guessed, shape (size, *label_shape)."""
    blank = blank_labels(observation, size)
    return torch.full_like(blank, torch.nan if blank.is_floating_point() else NO_LABEL)


def are_known(labels: Tensor) -> bool:
    """Say whether every label was guessed."""
    return not bool((labels.isnan() if labels.is_floating_point() else labels == NO_LABEL).any())
