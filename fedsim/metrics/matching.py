"""The attacker's objective at the truth: shows whether an attack could have succeeded at all. Scorer side only."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from fedsim.core.gradients import cosine_distance, gradient_of
from fedsim.core.hooks.tasks import Answer, plain_answer
from fedsim.core.masks import inject_masks
from fedsim.core.showing import Showing
from fedsim.core.types import DropoutSite, Loss, Truth, Update


def objective_at_truth(
    model: nn.Module,
    update: Update,
    truth: Truth,
    loss: Loss,
    sites: Sequence[DropoutSite],
    answer: Answer = plain_answer,
) -> float | None:
    """Return 1 - cosine between the update and the gradient of the true batch under the true masks, in [0, 2].

    Without a defense it is 0 up to rounding. None for updates of several steps, which are not one gradient.

    Args:
        model: holding the weights that the update answers.
        update: as it was observed.
        truth: the private side of it.
        loss: what the client minimised.
        sites: where the model drops out, for that batch.
        answer: that of the clients' task.
    """
    if len(truth.batches) != 1:
        return None
    batch = truth.batches[0]
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    draws = truth.draws[0] if truth.draws else {}
    with inject_masks(sites, truth.masks[0]), Showing(draws):
        value = loss(*answer(model, batch, draws))
    gradient = gradient_of(value, parameters)
    ours = [own.double() for own in gradient.values()]
    return cosine_distance(ours, [update.tensors[name].double() for name in gradient])
