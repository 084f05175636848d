"""One forward pass and one training step of a user's model with the user's loss, on a copy, before an audit begins."""

from __future__ import annotations

import copy
import warnings
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fedsim.audit.copying import NoScores
from fedsim.audit.foreign import reason
from fedsim.core import seeding
from fedsim.core.errors import FedsimError
from fedsim.core.nets.losses import NumberLoss
from fedsim.core.types import Batch, Loss
from fedsim.scenario import user_models

_OTHER_INPUTS = (TypeError, KeyError, AttributeError, IndexError)  # what a forward of a mapping raises on a tensor
_WRAPPER = """If its forward takes no single tensor, wrap it:
  class OfTensor(nn.Module):
      def __init__(self, model): super().__init__(); self.model = model
      def forward(self, images): return self.model({"images": images})"""
_ROWS = 2  # dimensions of a batch of rows
_IMAGES = 4  # dimensions of a batch of images, and of scores of their pixels


def scores_of(model: nn.Module, batch: Batch, name: str) -> Tensor:
    """Run a copy of the model once, and return what it says of each example, first dimension that of the examples.

    Raises:
        FedsimError: it fails, or returns something else.
    """

    def run(copied_model: nn.Module, inputs: Tensor) -> Tensor:
        return copied_model(inputs, **batch.given)

    try:
        scores = cast("Any", user_models.call_model(copy.deepcopy(model), batch.inputs, f"the model of '{name}'", run))
    except FedsimError as error:
        cause = error.__cause__
        if isinstance(cause, _OTHER_INPUTS) and not isinstance(cause, NoScores) and not batch.given:
            raise FedsimError(f"{error} {_WRAPPER}") from cause
        raise
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


def has_numbers(scores: Tensor, labels: Tensor) -> bool:
    """Say whether labels are one number or a row of numbers for each example, as many as the model returns."""
    is_row = scores.ndim <= _ROWS and labels.ndim <= _ROWS
    return is_row and labels.is_floating_point() and labels[0].numel() == scores[0].numel()


def number_loss(loss: Loss, scores: Tensor, labels: Tensor) -> NumberLoss:
    """Return a loss of numbers that gets labels in the shape of the scores, or in another that it expects.

    A loss of (B,) and (B, 1) broadcasts to (B, B). The first shape of labels is chosen in which it does not.

    Args:
        loss: the user's.
        scores: what the model returns for some examples.
        labels: of these examples, as many numbers as scores.
    """
    pair = torch.arange(2) % len(scores)
    scores, labels = scores[pair], labels[pair]
    choices = [NumberLoss(loss), *(NumberLoss(loss, shape) for shape in (tuple(labels.shape[1:]), ()))]
    return next((choice for choice in choices if _is_paired(choice, scores, labels)), choices[0])


def _is_paired(loss: Loss, scores: Tensor, labels: Tensor) -> bool:
    """Say whether a loss takes these shapes without broadcasting."""
    try:
        with _Unbroadcast(), seeding.isolate_randomness(0):
            return loss(scores, labels).ndim == 0
    except Exception:  # whatever a user's loss raises, these shapes are not the expected ones
        return False


class _Unbroadcast(TorchFunctionMode):
    """Refuses operations on one tensor (B,) and another (B, 1), whose result would have shape (B, B)."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        shapes = {part.shape for part in (*args, *(kwargs or {}).values()) if isinstance(part, Tensor)}
        if any(torch.Size([*shape, 1]) in shapes for shape in shapes if len(shape) == 1):
            raise FedsimError("the loss broadcasts")
        return func(*args, **(kwargs or {}))


def try_step(model: nn.Module, loss: Loss, batch: Batch, name: str) -> None:
    """Try one training step on a copy.

    Raises:
        FedsimError: the loss fails, is no finite number, or leaves every gradient zero; one sentence says which.
    """
    trial = copy.deepcopy(model)
    outputs = user_models.call_model(
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
