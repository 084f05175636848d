"""White-box test of a private step: neighbouring batches, with the same randomness.

Both outputs then have the same noise, and their difference is the influence of a record. Noise is measured between
seeds, tensor by tensor. The joint change of all tensors by a record is limited by

    sqrt(sum over tensors of (distance / deviation of the noise)^2) <= 1 / noise multiplier,

for every sensitivity and scale of the output. A pass proves nothing beyond the tested neighbours.
The idea is from Re:cord-play (arXiv 2602.17454); only its abstract was read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import torch
from torch import Tensor

from fedsim.core.errors import first_line
from fedsim.core.types import Batch, Tensors

Release = Callable[[Batch, int, int], Tensors]
"""Return all that a step sends of a batch: with the seed of its randomness, and the number of the step."""

_SIZES = (1, 4, 8)
_SCALES = (0.1, 3.0, 10.0, 1000.0)
_BROKEN = (math.nan, math.inf, 1e30)
_PAIRS, _FEWER = 64, 16  # of seeds
_STANDARD_ERRORS = 6.0  # false alarms once in a billion
_ROUNDING = 1e-5  # of the largest entry: float32 adds up in another order, or where noise is large
_MOST_FAULTS = 5  # more say nothing new
_FEWEST = 16  # smallest number of entries for a comparison of noise


@dataclass(frozen=True)
class Coupled:
    """Result of the test on neighbouring batches.

    Attributes:
        neighbours: number of tested pairs.
        distance: the largest between two neighbours, in standard deviations of the noise.
        max_distance: the largest allowed distance.
        faults: a sentence per fault.
    """

    neighbours: int
    distance: float
    max_distance: float
    faults: tuple[str, ...]


def check_step(release: Release, batch: Batch, noise_multiplier: float, steps: int = 2) -> Coupled:
    """Return the test result, on neighbouring batches, of a step that states a noise multiplier.

    Args:
        release: the step. All its outputs count: a loss, or a number of examples, is a tensor with a single entry.
        batch: records to make neighbours of, two at least.
        noise_multiplier: deviation of the noise over the largest distance of neighbours that add or remove a record.
        steps: number of different step numbers; noise must differ between all of them.
    """
    stated = 1.0 / noise_multiplier
    first_row = _part(batch, 0, 1)
    if not _are_equal(release(first_row, 0, 0), release(first_row, 0, 0)):
        return Coupled(
            0, math.inf, stated, ("the same batch and seed give other bits: derive all randomness from the seed",)
        )
    noise = [
        [_halved_difference(release, first_row, pair, step) for pair in range(_PAIRS if not step else _FEWER)]
        for step in range(steps)
    ]
    deviations = {name: _deviation([tensor[name] for tensor in noise[0]]) for name in noise[0][0]}
    distances, faults = [0.0], list(_find_reused_noise(noise))
    for base, neighbours in _neighbours(batch):
        first = _release_twice(release, base)
        for name, neighbour in neighbours:
            moved = _compute_change(first, _release_twice(release, neighbour))
            if isinstance(moved, str):
                faults.append(f"{name}: {moved}")
                continue
            distances.append(_distance(moved, deviations))
            if distances[-1] > stated * (1.0 + _ROUNDING):
                far = f"{distances[-1]:.4g} noise standard deviations (stated: {stated:.4g})"
                faults.append(f"{name}: one record moves the output by {far}")
        if len(faults) >= _MOST_FAULTS:
            break
    return Coupled(len(distances) - 1, max(distances), stated, tuple(dict.fromkeys(faults)))


def _neighbours(batch: Batch) -> Iterator[tuple[Batch, list[tuple[str, Batch]]]]:
    """Yield batches, each with names and batches that have an additional record."""
    first, last = _part(batch, 0, 1), _part(batch, len(batch) - 1, len(batch))
    unlike = (batch.labels != batch.labels[0]).flatten().nonzero()
    opposed = replace(first, labels=batch.labels[unlike[0]]) if len(unlike) else last
    for size in (size for size in _SIZES if size < len(batch)):
        base, copies = _part(batch, 0, size), Batch.concat([first] * size)
        yield base, [(f"{size} records and {name}", Batch.concat([base, record])) for name, record in _records(last)]
        records = [*_records(opposed), ("the same again", first)]
        yield copies, [(f"{size} equal records and {name}", Batch.concat([copies, record])) for name, record in records]


def _records(record: Batch) -> Iterator[tuple[str, Batch]]:
    """Yield the record and adversarial versions of it: scaled, constant and non-finite inputs."""
    yield "one", record
    if not record.inputs.is_floating_point():
        return
    for scale in _SCALES:
        yield f"one, {scale:g} times as large", replace(record, inputs=scale * record.inputs)
        yield f"one, {-scale:g} times as large", replace(record, inputs=-scale * record.inputs)
    for value in (0.0, *_BROKEN):
        yield f"one of {value:g} alone", replace(record, inputs=torch.full_like(record.inputs, value))


def _part(batch: Batch, begin: int, end: int) -> Batch:
    return batch.select(torch.arange(begin, end))


def _compute_change(first: tuple[Tensors, Tensors] | str, second: tuple[Tensors, Tensors] | str) -> Tensors | str:
    """Return the change of each tensor by a record, or a sentence on a fault."""
    if isinstance(first, str) or isinstance(second, str):
        are_refused = isinstance(first, str) and isinstance(second, str)
        failed = first if isinstance(first, str) else second
        return f"the step fails ({failed}), {'on both neighbours' if are_refused else 'on one of two neighbours alone'}"
    if first[0].keys() != second[0].keys():
        return "other tensors are sent"
    moved = [
        {name: after[name].double() - before[name].double() for name in before}
        for before, after in zip(first, second, strict=True)
    ]
    for name, tensor in moved[0].items():
        largest = max(float(sent[name].abs().max()) for sent in (*first, *second) if sent[name].numel())
        if not bool(torch.isfinite(tensor).all()):
            return f"'{name}' is not finite, which all can see"
        if float((tensor - moved[1][name]).abs().max()) > _ROUNDING * largest:
            return f"the noise of '{name}' depends on the records, in its size or its divisor"
    return moved[0]


def _release_twice(release: Release, batch: Batch) -> tuple[Tensors, Tensors] | str:
    """Return the outputs of two seeds, or why the step fails."""
    try:
        return release(batch, 0, 0), release(batch, 1, 0)
    except Exception as error:  # foreign code
        return first_line(error)


def _halved_difference(release: Release, batch: Batch, pair: int, step: int) -> Tensors:
    first, second = release(batch, 2 * pair, step), release(batch, 2 * pair + 1, step)
    return {name: (first[name].double() - second[name].double()) / math.sqrt(2) for name in first}


def _deviation(noise: Sequence[Tensor]) -> float:
    """Return an upper confidence bound on the standard deviation of a tensor's noise."""
    values = torch.stack(list(noise)).flatten()
    if not len(values):
        return 0.0
    return float(values.square().mean().sqrt()) * (1.0 + _STANDARD_ERRORS / math.sqrt(2 * len(values)))


def _distance(moved: Tensors, deviations: dict[str, float]) -> float:
    total = 0.0
    for name, tensor in moved.items():
        length = float(tensor.norm())
        if length > 0.0:
            total += (length / deviations[name]) ** 2 if deviations.get(name) else math.inf
    return math.sqrt(total)


def _find_reused_noise(noise: Sequence[Sequence[Tensors]]) -> Iterator[str]:
    """Yield a sentence for each pair of steps, or of tensors of a step, with equal noise."""
    names = [name for name, tensor in noise[0][0].items() if tensor.numel() >= _FEWEST]
    for first, second in combinations(range(len(noise)), 2):
        for name in names:
            if _alike([pair[name] for pair in noise[first]], [pair[name] for pair in noise[second]]):
                yield f"the noise of '{name}' is used again in another step"
    for first, second in combinations(names, 2):
        if _alike([pair[first] for pair in noise[0]], [pair[second] for pair in noise[0]]):
            yield f"the noise of '{first}' is used again in '{second}'"


def _alike(left: Sequence[Tensor], right: Sequence[Tensor]) -> bool:
    count = min(left[0].numel(), right[0].numel())
    first = torch.stack([tensor.flatten()[:count] for tensor in left[:_FEWER]]).flatten()
    second = torch.stack([tensor.flatten()[:count] for tensor in right[:_FEWER]]).flatten()
    scale = float(first.norm() * second.norm())
    return scale > 0.0 and abs(float(first @ second)) / scale * math.sqrt(len(first)) > _STANDARD_ERRORS


def _are_equal(first: Tensors, second: Tensors) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
