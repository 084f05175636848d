"""Examples and labels of a loader's items, and the kind of labels: classes, numbers, multi-label sets, or masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from fedsim.audit import texts
from fedsim.core.errors import FedsimError
from fedsim.core.nets.losses import are_classes

_IMAGE_KEYS = ("pixel_values", "inputs", "image", "images", "features", "x")
LABEL_KEYS = ("labels", "label", "targets", "target", "y")
_PAIR = 2  # examples and labels
_OF_PAIRS = "\n  loader = [(images, labels) for images, _, labels in loader]  # the places of both in what it yields"
_VOLUMES, _IMAGES, _SERIES, _ROWS = 5, 4, 3, 2  # dimensions of a batch
_LEAST_SIDE = 3
_FEWEST_CLASSES = 2
_KINDS = (
    "expected images of floating-point numbers, (batch, channels, height, width), volumes, (batch, channels, depth, "
    "height, width), rows of numbers, (batch, columns), or series, (batch, times, variables)."
)


def pair_of(item: Any, subject: str) -> tuple[Tensor, Tensor]:
    """Return the float32 examples and the labels of a loader item; class labels are int64 of shape (B,).

    Raises:
        FedsimError: a part is missing, or has an unsupported type or shape; the message names it.
    """
    inputs, labels = _split_mapping(item, subject) if isinstance(item, Mapping) else _two(item, subject)
    check_inputs(inputs, subject)
    _check_labels(labels, inputs, subject)
    labels = labels.detach().cpu()
    return inputs.detach().cpu().float(), labels.long() if are_classes(labels) else labels


def convert_labels(labels: Tensor, outputs: int) -> Tensor:
    """Return labels converted to floats if the model has a single output per example.

    Integer labels with a single output are numbers, not classes: two classes need two scores.
    """
    return labels.float() if are_classes(labels) and outputs == 1 else labels


def are_probabilities(labels: Tensor) -> bool:
    """Return whether labels are class probabilities (B, K): not negative, with rows that sum to 1."""
    if labels.ndim != _ROWS or labels.shape[1] < _FEWEST_CLASSES or not labels.is_floating_point():
        return False
    return bool((labels >= 0).all()) and torch.allclose(labels.sum(1), torch.ones(len(labels), dtype=labels.dtype))


def are_one_hot(labels: Tensor) -> bool:
    """Return whether labels are class probabilities (B, K) of 0 and 1."""
    return are_probabilities(labels) and bool(((labels == 0) | (labels == 1)).all())


def _split_mapping(item: Any, subject: str) -> tuple[Tensor, Tensor]:
    given = cast("Mapping[str, Any]", item)
    parts: list[Any] = []
    for kind, keys in (("examples", _IMAGE_KEYS), ("labels", LABEL_KEYS)):
        key = next((key for key in keys if key in given), None)
        if key is None:
            has = ", ".join(map(str, given)) or "nothing"
            raise FedsimError(
                f"{subject} yields a mapping without {kind}: it has {has}, expected any of {', '.join(keys)}. "
                f"{texts.HINT}"
            )
        parts.append(given[key])
    return _tensors(parts, subject)


def _two(item: Any, subject: str) -> tuple[Tensor, Tensor]:
    if not isinstance(item, list | tuple):
        raise FedsimError(
            f"{subject} yields {type(item).__name__}, expected (images, labels) or a mapping with them. {texts.HINT}"
        )
    parts = cast("Sequence[Any]", item)
    if len(parts) != _PAIR:
        raise FedsimError(
            f"{subject} yields {len(parts)} things at once, expected two, (images, labels)."
            f"{f' Wrap it:{_OF_PAIRS}' if len(parts) > _PAIR else ''}"
        )
    return _tensors(parts, subject)


def _tensors(parts: Sequence[Any], subject: str) -> tuple[Tensor, Tensor]:
    for part, kind in zip(parts, ("examples", "labels"), strict=True):
        if not isinstance(part, Tensor):
            hint = " For two views of each example use Subject(views='halves'), or 'stacked'."
            raise FedsimError(
                f"{subject} yields {kind} of type {type(part).__name__}, expected a tensor. A DataLoader makes tensors "
                f"of arrays and numbers. {texts.HINT}{hint if isinstance(part, tuple | list) else ''}"
            )
        if part.is_sparse or part.is_complex():
            raise FedsimError(f"{subject} yields {kind} as a sparse or complex tensor, expected plain numbers.")
    return parts[0], parts[1]


def check_inputs(inputs: Tensor, subject: str) -> None:
    """Check the type and shape of examples.

    Raises:
        FedsimError: the type or shape is unsupported.
    """
    seen = f"{subject} yields {inputs.dtype} of shape {tuple(inputs.shape)}"
    if inputs.dtype == torch.uint8 and inputs.ndim == _IMAGES:
        raise FedsimError(f"{seen}, {_KINDS} Pixels of 0 to 255 become numbers by .float() / 255.")
    is_image = inputs.ndim in (_IMAGES, _VOLUMES) and min(inputs.shape[-2:]) >= _LEAST_SIDE
    if not inputs.is_floating_point() or not (is_image or inputs.ndim in (_ROWS, _SERIES)):
        raise FedsimError(f"{seen}, {_KINDS} {texts.HINT}")
    if not inputs[0:1].numel() and len(inputs):
        raise FedsimError(f"{seen}: an example holds no numbers.")


def _check_labels(labels: Tensor, inputs: Tensor, subject: str) -> None:
    if labels.ndim == 0 or len(labels) != len(inputs):
        count = "one number" if labels.ndim == 0 else f"{len(labels)} labels"
        raise FedsimError(f"{subject} yields {count} for {len(inputs)} examples, expected a label for each.")
    if labels.is_floating_point() and not bool(labels.isfinite().all()):
        raise FedsimError(f"{subject} yields labels that are not finite.")
