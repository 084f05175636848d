"""Results of attacks without a complete guess: empty results, blank examples, unknown labels.

An attack that cannot run on an observation refuses: `not_applicable` returns the reason, or `NotApplicable` is raised
before the search; the record holds a failure. A search that ran returns only the examples that it recovered; missing
examples get the worst scores. Without any example it returns `no_guess`, and `stop_reason` gives the reason. Missing
examples are not replaced by grey images, since these would be scored as guesses.
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
    """Part of a search ended without a result. The message is the reason, as the end of a sentence."""


def no_guess(
    observation: Observation,
    reason: str,
    *,
    iterations: int = 1,
    notes: tuple[str, ...] = (),
    diagnostics: Mapping[str, float] | None = None,
    extras: Tensors | None = None,
) -> Reconstruction:
    """Return a guess without examples and with an infinite objective.

    Args:
        observation: inputs of the attack.
        reason: why nothing was found, for `stop_reason`.
        iterations: number of iterations of the attack.
        notes: notes for the record.
        diagnostics: figures that explain the result.
        extras: other recovered values.
    """
    return Reconstruction(
        inputs=no_examples(observation),
        labels=torch.zeros(0, dtype=torch.long),
        masks=None,
        objective=math.inf,
        iterations=iterations,
        best_iteration=iterations,
        history=(),
        stop_reason=reason,
        notes=notes,
        diagnostics=dict(diagnostics or {}),
        extras=dict(extras or {}),
    )


def no_examples(observation: Observation) -> Tensor:
    """Return no examples, shape (0, *shape)."""
    return blanks(observation, 0)


def blanks(observation: Observation, size: int) -> Tensor:
    """Return zeros for a forward pass or a step without recovered examples, shape (size, *shape)."""
    dtype = observation.spec.dtype or next(observation.model.parameters()).dtype
    return torch.zeros((size, *observation.spec.shape), dtype=dtype)


def labels_or_unknown(observation: Observation, size: int) -> Tensor:
    """Return granted or inferred labels, shape (size, *label_shape); if their number differs, the most frequent class.

    The labels are unknown if the gradient of the last layer is hidden, if the model has no last layer with one row per
    class, or if labels are no classes.
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
    """Return labels that are marked as unknown, shape (size, *label_shape)."""
    blank = blank_labels(observation, size)
    return torch.full_like(blank, torch.nan if blank.is_floating_point() else NO_LABEL)


def are_known(labels: Tensor) -> bool:
    """Return whether every label is known."""
    return not bool((labels.isnan() if labels.is_floating_point() else labels == NO_LABEL).any())
