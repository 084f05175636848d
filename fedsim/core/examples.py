"""The examples behind an update, each of them once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fedsim.core.types import Batch


def distinct(batches: Sequence[Batch]) -> Batch:
    """Return the examples of all local steps, each once, in the order of their first use.

    Passes over a client's examples repeat them. Two are the same when inputs, label and what else the
    model reads are the same, bit by bit, so every augmented view counts by itself. The batch of a single step is
    returned as it is.
    """
    if len(batches) == 1:
        return batches[0]
    number = torch.cat(numbers(batches))
    chosen = torch.tensor([number.tolist().index(value) for value in range(int(number.max()) + 1)])
    return Batch.joined(batches).taken(chosen)


def numbers(batches: Sequence[Batch]) -> tuple[Tensor, ...]:
    """Return which of the `distinct` examples stands where in each batch, one tensor (B,) a batch."""
    if len(batches) == 1:
        return (torch.arange(len(batches[0])),)
    known: dict[tuple[bytes, ...], int] = {}
    return tuple(
        torch.tensor([known.setdefault(key, len(known)) for key in keys(batch)], dtype=torch.long) for batch in batches
    )


def keys(batch: Batch) -> Iterator[tuple[bytes, ...]]:
    """Yield what tells each example from another: inputs, label and what else the model reads, bit by bit."""
    for parts in zip(batch.inputs, batch.labels, *(batch.given[name] for name in sorted(batch.given)), strict=True):
        yield tuple(part.contiguous().numpy().tobytes() for part in parts)
