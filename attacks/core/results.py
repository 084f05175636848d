"""The result of an attack that gives up: grey images, and the reason."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from attacks.core.gradient_distance import verdict
from attacks.core.labels import labels_of
from fedsim.core.errors import NotApplicable
from fedsim.core.types import Observation, Reconstruction


def given_up(
    observation: Observation, size: int, iterations: int, reason: str, facts: Mapping[str, float]
) -> Reconstruction:
    """Return grey images, with the distance of their gradient from the observed one.

    Args:
        observation: what the attack got.
        size: number of examples.
        iterations: iterations that the attack took.
        reason: why it gave up; it becomes `stopped`.
        facts: figures that explain the reason.
    """
    grey = grey_images(observation, size)
    labels = labels_or_zeros(observation, size)
    kept = tuple(torch.ones((size, *site.shape[1:])) for site in observation.sites)
    objective, meaning = verdict(observation, grey, labels, kept, (1.0, "1, since nothing was recovered"))
    return Reconstruction(
        inputs=grey,
        labels=labels,
        masks=None,
        objective=objective,
        iterations=iterations,
        best_iteration=iterations,
        history=((iterations, objective),),
        stopped=reason,
        notes=("the images are grey: nothing was recovered", meaning),
        facts=facts,
    )


def grey_images(observation: Observation, size: int) -> Tensor:
    """Return examples of zeros in the model's precision, shape (size, *shape)."""
    return torch.zeros((size, *observation.spec.shape), dtype=next(observation.model.parameters()).dtype)


def labels_or_zeros(observation: Observation, size: int) -> Tensor:
    """Return granted or inferred labels, shape (size,); if their number differs, the most frequent one repeated.

    Class 0 where the gradient of the last layer is hidden, or the model has no last layer with one row per class.
    """
    try:
        labels = labels_of(observation)
    except NotApplicable:
        return torch.zeros(size, dtype=torch.long)
    return labels.clone() if len(labels) == size else labels.mode().values.expand(size).clone()
