"""The examples behind an update, each of them once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedsim.core.types import Batch


def distinct(batches: Sequence[Batch]) -> Batch:
    """Return the examples of all local steps, each once, in the order of their first use.

    Passes over a client's examples repeat them. Two are the same when the model saw the same inputs and label, bit by
    bit, so every augmented view counts by itself. The batch of a single step is returned as it is.
    """
    if len(batches) == 1:
        return batches[0]
    inputs, labels = torch.cat([own.inputs for own in batches]), torch.cat([own.labels for own in batches])
    number = torch.cat(numbers(batches))
    chosen = torch.tensor([number.tolist().index(value) for value in range(int(number.max()) + 1)])
    return Batch(inputs[chosen], labels[chosen])


def numbers(batches: Sequence[Batch]) -> tuple[Tensor, ...]:
    """Return which of the `distinct` examples stands where in each batch, one tensor (B,) a batch."""
    if len(batches) == 1:
        return (torch.arange(len(batches[0])),)
    known: dict[tuple[bytes, bytes], int] = {}
    return tuple(
        torch.tensor([known.setdefault(key, len(known)) for key in map(_key, own.inputs, own.labels)], dtype=torch.long)
        for own in batches
    )


def _key(example: Tensor, label: Tensor) -> tuple[bytes, bytes]:
    return example.contiguous().numpy().tobytes(), label.contiguous().numpy().tobytes()
