"""Overview of the attacks on a model and its loss, from Python."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fedsim.applicability.overview import AttackOverview
from fedsim.applicability.subjects import overview_of_subject
from fedsim.audit.record import KNOWS
from fedsim.audit.subject import Subject
from fedsim.core import seeding
from fedsim.core.errors import FedsimError
from fedsim.core.types import Knowledge, Loss

_LEAST_EXAMPLES = 4  # examples for the trial of other batch sizes


def which(
    model: nn.Module,
    loss: Loss,
    *,
    shape: Sequence[int],
    classes: int,
    batch_size: int = 1,
    labels: Tensor | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    knows: Sequence[Knowledge] = KNOWS,
    seed: int = 0,
) -> AttackOverview:
    """Return the attacks that apply to a model, in the order of `auto`, and why others do not. Nothing is attacked.

    The gradient behind the answer is that of random examples.

    Args:
        model: in training mode; it is not changed.
        loss: ``loss(outputs, labels) -> scalar``, the mean over the batch.
        shape: of an example, for example ``(3, 32, 32)``.
        classes: number of classes.
        batch_size: number of examples behind the gradient.
        labels: examples of labels (N, ...) if these are not classes, such as targets of a regression; repeated as
            needed.
        mean: per-channel mean that was subtracted from pixels in [0, 1]; 0 when absent.
        std: per-channel standard deviation that was divided by; 1 when absent.
        knows: knowledge granted to the attacker; see `fedsim.core.types.Knowledge`.
        seed: of the random examples.

    Raises:
        FedsimError: batch_size is below 1, or the model or the loss fails on such examples.
    """
    if batch_size < 1:
        raise FedsimError(f"batch_size is {batch_size}, expected at least 1.")
    generator = seeding.generator(seed, "examples of an overview")
    number = max(_LEAST_EXAMPLES, batch_size)
    inputs = torch.rand((2 * number, *shape), generator=generator)
    channels = (1, -1, *[1] * (len(shape) - 1))
    means, stds = tuple(mean or (0.0,) * shape[0]), tuple(std or (1.0,) * shape[0])
    inputs = (inputs - torch.tensor(means).view(channels)) / torch.tensor(stds).view(channels)
    targets = torch.randint(classes, (len(inputs),), generator=generator) if labels is None else labels
    targets = targets[torch.arange(len(inputs)) % len(targets)]
    subject = Subject(model, loss, [(inputs, targets)], mean=means, std=stds)
    return overview_of_subject(subject, type(model).__name__, batch_size, knows, seed)
