"""Checks of a user's private step: neighbouring batches and batch sampling (`fedsim check-mechanism`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from torch import Tensor

from fedsim.audit.adapters import type_names
from fedsim.audit.loading import call_factory, load
from fedsim.core.errors import FedsimError, reason
from fedsim.core.types import Batch
from fedsim.privacy.coupled import Coupled, Release, check_step
from fedsim.privacy.sampling import SamplingClaim, fewest_sizes, sampling_fault

_PARTS = 3
_MOST_RECORDS = 10_000_000  # limit of the table of batch-size probabilities


def check_target(target: str) -> Coupled:
    """Return the result of running a user's private step on neighbouring batches.

    Args:
        target: ``package.module:function`` or ``folder/file.py:function``, without arguments. It returns (step,
            (inputs, labels), noise multiplier). The step is called with inputs, labels, the seed of all its
            randomness and the number of the step; it returns all sent tensors by name. A fourth value
            (batch sizes, number of records, rate) claims Poisson sampling.

    Raises:
        FedsimError: the function is missing, fails, or returns another type.
    """
    function = load(target)
    if not callable(function):
        raise FedsimError(f"'{target}' is of type {type(function).__name__}, expected a function without arguments.")
    parts = _parts(call_factory(function, target), target)
    step, batch, noise = _release(parts[0], target), _batch(parts[1], target), _noise(parts[2], target)
    claims = [_sampling(claim, target) for claim in parts[_PARTS:]]
    try:
        outcome = check_step(step, batch, noise)
    except Exception as error:  # the step failed on an unmodified record
        raise FedsimError(f"the step of '{target}' failed on a record: {reason(error)}.") from error
    return replace(outcome, faults=(*outcome.faults, *filter(None, map(sampling_fault, claims))))


def _parts(returned: Any, target: str) -> tuple[Any, ...]:
    parts = cast("tuple[Any, ...]", returned) if isinstance(returned, tuple) else (returned,)
    if len(parts) not in (_PARTS, _PARTS + 1) or not callable(parts[0]):
        raise FedsimError(
            f"'{target}' returned ({type_names(parts)}), expected a tuple (step, (inputs, "
            "labels), noise multiplier), with step a function of inputs, labels, seed and "
            "number; a fourth value (sizes of batches, number of records, rate) claims Poisson "
            "sampling."
        )
    return parts


def _release(step: Any, target: str) -> Release:
    def release(batch: Batch, seed: int, number: int) -> dict[str, Tensor]:
        sent = step(batch.inputs, batch.labels, seed, number)
        if not isinstance(sent, dict) or not all(
            isinstance(value, Tensor) for value in cast("dict[Any, Any]", sent).values()
        ):
            raise FedsimError(f"the step of '{target}' returned {type(sent).__name__}, expected tensors by name")
        return cast("dict[str, Tensor]", sent)

    return release


def _batch(records: Any, target: str) -> Batch:
    pair = cast("tuple[Any, ...]", records) if isinstance(records, tuple) else ()
    if len(pair) != 2 or not all(isinstance(part, Tensor) for part in pair) or len({len(part) for part in pair}) != 1:  # noqa: PLR2004 - as the message says
        raise FedsimError(f"'{target}': the second value is no pair (inputs, labels) of tensors of equal length.")
    if len(pair[0]) < 2:  # noqa: PLR2004 - as the message says
        raise FedsimError(f"'{target}' gives {len(pair[0])} records, expected 2 at least, and 9 to try all neighbours.")
    return Batch(*pair)


def _noise(multiplier: Any, target: str) -> float:
    if isinstance(multiplier, int | float) and 0.0 < multiplier < math.inf:
        return float(multiplier)
    raise FedsimError(f"'{target}': the noise multiplier is {multiplier!r}, expected a number above 0.")


def _sampling(claim: Any, target: str) -> SamplingClaim:
    parts = cast("tuple[Any, ...]", claim) if isinstance(claim, tuple) else ()
    if len(parts) != 3 or not isinstance(parts[0], Sequence):  # noqa: PLR2004 - as the message says
        raise FedsimError(f"'{target}': the fourth value is no tuple (sizes of batches, number of records, rate).")
    sizes, records, rate = cast("tuple[Sequence[Any], Any, Any]", parts)
    if not isinstance(records, int) or not 0 < records <= _MOST_RECORDS:
        raise FedsimError(f"'{target}': the number of records is {records!r}, expected 1 to {_MOST_RECORDS:,}.")
    if not isinstance(rate, int | float) or not 0.0 < rate < 1.0:
        raise FedsimError(f"'{target}': the sampling rate is {rate!r}, expected a number between 0 and 1.")
    if not all(isinstance(size, int) and 0 <= size <= records for size in sizes):
        raise FedsimError(f"'{target}': a size of a batch is no whole number from 0 to {records}, the records.")
    if len(sizes) < (needed := fewest_sizes(records, rate)):
        raise FedsimError(f"'{target}' gives {len(sizes)} sizes of batches, expected {needed} at least.")
    return SamplingClaim(sizes, records, rate)
