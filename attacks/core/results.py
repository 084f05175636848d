"""What an attack returns when it gives up: grey images, and the reason."""

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
    """Return grey images of so many examples, with the distance that they have from the observed gradient.

    Args:
        observation: what the attack got.
        size: number of examples.
        iterations: what the attack counted until then.
        reason: why it gave up, for `stopped`.
        facts: figures that explain it.
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
    """Return granted or inferred labels, shape (size,): their most frequent one if there are more or fewer of them.

    Class 0 where the gradient of the last layer is hidden, or the model has no last layer with one row a class.
    """
    try:
        labels = labels_of(observation)
    except NotApplicable:
        return torch.zeros(size, dtype=torch.long)
    return labels.clone() if len(labels) == size else labels.mode().values.expand(size).clone()
