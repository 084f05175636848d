"""Predicted labels without confidences: the answers of a service that hides its confidence."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.membership._signals import model_with
from fedsim.questions.membership.types import MembershipObservation


@torch.no_grad()
def is_right(observation: MembershipObservation, inputs: Tensor) -> Tensor:
    """Return whether the final model predicts each candidate's label on these inputs, as double, shape (N,).

    Args:
        observation: with classes as labels.
        inputs: the candidates with changed inputs, in their order.
    """
    model = model_with(observation, observation.weights[-1][1])
    size = observation.task.eval_batch_size
    answers = torch.cat([model(part).argmax(-1) for part in inputs.split(size)])
    return (answers == observation.candidates.labels).double()


def explain_missing_classes(observation: MembershipObservation) -> str | None:
    """Return why the examples have no class labels, or None."""
    if observation.candidates.labels.dim() == 1 and not observation.candidates.labels.is_floating_point():
        return None
    return "compares the predicted class with an example's label, and these examples have no class each"
