"""Distinct examples of an update."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fedsim.core.types import Batch


def unique_examples(batches: Sequence[Batch]) -> Batch:
    """Return the examples of all local steps without duplicates, in the order of their first use.

    Several local epochs repeat examples. Two examples are equal if inputs, label and further model inputs are bitwise
    equal, so augmented views count separately. The batch of a single step is returned unchanged.
    """
    if len(batches) == 1:
        return batches[0]
    number = torch.cat(example_indices(batches))
    chosen = torch.tensor([number.tolist().index(value) for value in range(int(number.max()) + 1)])
    return Batch.concat(batches).select(chosen)


def example_indices(batches: Sequence[Batch]) -> tuple[Tensor, ...]:
    """Return the index in `unique_examples` of each example of each batch, one tensor (B,) per batch."""
    if len(batches) == 1:
        return (torch.arange(len(batches[0])),)
    known: dict[tuple[bytes, ...], int] = {}
    return tuple(
        torch.tensor([known.setdefault(key, len(known)) for key in keys(batch)], dtype=torch.long) for batch in batches
    )


def keys(batch: Batch) -> Iterator[tuple[bytes, ...]]:
    """Yield the identity of each example: the bytes of inputs, label and further model inputs."""
    for parts in zip(
        batch.inputs, batch.labels, *(batch.extra_inputs[name] for name in sorted(batch.extra_inputs)), strict=True
    ):
        yield tuple(part.contiguous().numpy().tobytes() for part in parts)
