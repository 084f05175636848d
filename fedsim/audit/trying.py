"""One forward pass and one training step of a user's model with the user's loss, on a copy, before an audit begins."""

from __future__ import annotations

import copy
import warnings
from typing import Any, cast

from torch import Tensor, nn

from fedsim.audit.foreign import reason
from fedsim.core.errors import FedsimError
from fedsim.core.types import Batch, Loss
from fedsim.scenario import own_models

_IMAGES = 4  # dimensions of a batch of images, and of scores of their pixels


def scores_of(model: nn.Module, batch: Batch, name: str) -> Tensor:
    """Run a copy of the model once, and return what it says of each example, first dimension that of the examples.

    Raises:
        FedsimError: it fails, or returns something else.
    """

    def run(copied_model: nn.Module, inputs: Tensor) -> Tensor:
        return copied_model(inputs, **batch.given)

    scores = cast("Any", own_models.call_model(copy.deepcopy(model), batch.inputs, f"the model of '{name}'", run))
    if not isinstance(scores, Tensor) or not scores.ndim or len(scores) != len(batch):
        shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise FedsimError(f"the model of '{name}' returns {shape}, expected scores of shape ({len(batch)}, classes).")
    return scores.detach()


def outputs_in(scores: Tensor, labels: Tensor, name: str) -> int:
    """Return the number of classes, or of outputs for each example where labels are none; of masks, for each pixel.

    Raises:
        FedsimError: scores of such a shape are none of such labels.
    """
    shape = tuple(scores.shape)
    if labels.is_floating_point() or (scores.ndim > 1 and labels.shape[1:] == scores.shape[1:]):
        return scores.shape[1] if scores.ndim >= _IMAGES else scores[0].numel()
    if scores.ndim >= _IMAGES and labels.ndim == scores.ndim - 1:
        return scores.shape[1]
    if scores.ndim != labels.ndim + 1:  # one more, where every token has a label
        raise FedsimError(f"the model of '{name}' returns {shape}, expected scores of shape ({len(scores)}, classes).")
    return scores.shape[-1]


def try_step(model: nn.Module, loss: Loss, batch: Batch, name: str) -> None:
    """Try one training step on a copy.

    Raises:
        FedsimError: the loss fails, is no finite number, or leaves every gradient zero; one sentence says which.
    """
    trial = copy.deepcopy(model)
    outputs = own_models.call_model(
        trial, batch.inputs, f"the model of '{name}'", lambda one, inputs: one(inputs, **batch.given)
    )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Using a target size")  # it broadcasts, which is nobody's wish
            value = loss(outputs, batch.labels)
        value.backward()
    except UserWarning:
        raise FedsimError(
            f"the loss of '{name}' compares scores of shape {tuple(outputs.shape)} with labels of shape "
            f"{tuple(batch.labels.shape)}, each with each. Give both the same shape."
        ) from None
    except Exception as error:
        raise FedsimError(f"the loss of '{name}' fails on the model's scores: {reason(error)}.") from error
    if value.ndim or not bool(value.isfinite()):
        raise FedsimError(f"the loss of '{name}' is {value.tolist()}, expected one finite number.")
    if all(p.grad is None or not bool(p.grad.any()) for p in trial.parameters()):
        raise FedsimError(f"the gradient of the model of '{name}' is zero everywhere: it would send nothing.")
