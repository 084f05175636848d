"""Trial of a user's model and loss on a copy, before an audit: a forward pass and a training step."""

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

_OTHER_INPUTS = (TypeError, KeyError, AttributeError, IndexError)  # raised by a forward that expects a mapping
_WRAPPER = """If its forward takes no single tensor, wrap it:
  class OfTensor(nn.Module):
      def __init__(self, model): super().__init__(); self.model = model
      def forward(self, images): return self.model({"images": images})"""
_ROWS = 2  # dimensions of a batch of rows
_IMAGES = 4  # dimensions of a batch of images, or of pixel scores


def scores_of(model: nn.Module, batch: Batch, name: str) -> Tensor:
    """Run a copy of the model once and return its scores; the first dimension is the batch.

    Raises:
        FedsimError: the model fails, or returns another type or shape.
    """

    def run(copied_model: nn.Module, inputs: Tensor) -> Tensor:
        return copied_model(inputs, **batch.extra_inputs)

    try:
        scores = cast("Any", user_models.call_model(copy.deepcopy(model), batch.inputs, f"the model of '{name}'", run))
    except FedsimError as error:
        cause = error.__cause__
        if isinstance(cause, _OTHER_INPUTS) and not isinstance(cause, NoScores) and not batch.extra_inputs:
            raise FedsimError(f"{error} {_WRAPPER}") from cause
        raise
    if not isinstance(scores, Tensor) or not scores.ndim or len(scores) != len(batch):
        shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise FedsimError(f"the model of '{name}' returns {shape}, expected scores of shape ({len(batch)}, classes).")
    return scores.detach()


def outputs_in(scores: Tensor, labels: Tensor, name: str) -> int:
    """Return the number of classes; for other labels the number of outputs per example, for masks per pixel.

    Raises:
        FedsimError: the shapes of scores and labels do not fit.
    """
    shape = tuple(scores.shape)
    if labels.is_floating_point() or (scores.ndim > 1 and labels.shape[1:] == scores.shape[1:]):
        return scores.shape[1] if scores.ndim >= _IMAGES else scores[0].numel()
    if scores.ndim >= _IMAGES and labels.ndim == scores.ndim - 1:
        return scores.shape[1]
    if scores.ndim != labels.ndim + 1:  # scores have an additional dimension
        raise FedsimError(f"the model of '{name}' returns {shape}, expected scores of shape ({len(scores)}, classes).")
    return scores.shape[-1]


def has_numbers(scores: Tensor, labels: Tensor) -> bool:
    """Return whether labels are numbers, as many per example as the model returns."""
    is_row = scores.ndim <= _ROWS and labels.ndim <= _ROWS
    return is_row and labels.is_floating_point() and labels[0].numel() == scores[0].numel()


def number_loss(loss: Loss, scores: Tensor, labels: Tensor) -> NumberLoss:
    """Return a loss that receives number labels in the scores' shape, or in another shape that it expects.

    A loss of (B,) and (B, 1) would broadcast to (B, B). The first label shape without broadcasting is chosen.

    Args:
        loss: the user's loss.
        scores: scores of some examples.
        labels: labels of these examples, as many numbers as scores.
    """
    pair = torch.arange(2) % len(scores)
    scores, labels = scores[pair], labels[pair]
    choices = [NumberLoss(loss), *(NumberLoss(loss, shape) for shape in (tuple(labels.shape[1:]), ()))]
    return next((choice for choice in choices if _is_paired(choice, scores, labels)), choices[0])


def _is_paired(loss: Loss, scores: Tensor, labels: Tensor) -> bool:
    """Return whether a loss accepts these shapes without broadcasting."""
    try:
        with _Unbroadcast(), seeding.isolate_randomness(0):
            return loss(scores, labels).ndim == 0
    except Exception:  # any exception of the user's loss means that it expects other shapes
        return False


class _Unbroadcast(TorchFunctionMode):
    """Refuses operations on a tensor (B,) with a tensor (B, 1), which would broadcast to (B, B)."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        shapes = {part.shape for part in (*args, *(kwargs or {}).values()) if isinstance(part, Tensor)}
        if any(torch.Size([*shape, 1]) in shapes for shape in shapes if len(shape) == 1):
            raise FedsimError("the loss broadcasts")
        return func(*args, **(kwargs or {}))


def try_step(model: nn.Module, loss: Loss, batch: Batch, name: str) -> None:
    """Try a training step on a copy.

    Raises:
        FedsimError: the loss fails, is not a finite scalar, or every gradient is zero; the message names the cause.
    """
    trial = copy.deepcopy(model)
    outputs = user_models.call_model(
        trial, batch.inputs, f"the model of '{name}'", lambda model, inputs: model(inputs, **batch.extra_inputs)
    )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Using a target size")  # the loss broadcasts, which is an error
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
        raise FedsimError(f"the loss of '{name}' is {value.tolist()}, expected a single finite number.")
    if all(p.grad is None or not bool(p.grad.any()) for p in trial.parameters()):
        raise FedsimError(f"the gradient of the model of '{name}' is zero everywhere: it would send nothing.")
