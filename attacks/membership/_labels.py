"""Predicted labels, and nothing else of a model's answers: what a service gives that hides its confidence."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.membership._signals import model_with
from fedsim.core.types import MembershipObservation


@torch.no_grad()
def is_right(observation: MembershipObservation, inputs: Tensor) -> Tensor:
    """Return whether the final model gives each candidate's own label to these inputs, in double precision, shape (N,).

    Args:
        observation: with classes as labels.
        inputs: the candidates, changed, in their order.
    """
    model = model_with(observation, observation.weights[-1][1])
    size = observation.task.at_once
    answers = torch.cat([model(part).argmax(-1) for part in inputs.split(size)])
    return (answers == observation.candidates.labels).double()


def without_classes(observation: MembershipObservation) -> str | None:
    """Refuse labels that are no classes."""
    if observation.candidates.labels.dim() == 1 and not observation.candidates.labels.is_floating_point():
        return None
    return "compares the predicted class with an example's label, and these examples have no class each"
