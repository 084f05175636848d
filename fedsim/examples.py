"""The examples behind an update, each of them once."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fedsim.types import Batch


def distinct(batches: Sequence[Batch]) -> Batch:
    """Return the examples of all local steps, each once, in the order of their first use.

    Passes over a client's examples repeat them. Two are the same when the model saw the same inputs and label, bit by
    bit, so every augmented view counts by itself. The batch of a single step is returned as it is.
    """
    if len(batches) == 1:
        return batches[0]
    inputs, labels = torch.cat([own.inputs for own in batches]), torch.cat([own.labels for own in batches])
    first: dict[tuple[bytes, int], int] = {}
    for index, (example, label) in enumerate(zip(inputs, labels.tolist(), strict=True)):
        first.setdefault((example.contiguous().numpy().tobytes(), label), index)
    chosen = torch.tensor(list(first.values()))
    return Batch(inputs[chosen], labels[chosen])
