"""Somebody's private step on neighbouring batches: `fedsim check-mechanism`."""

from __future__ import annotations

import math
from typing import Any, cast

from torch import Tensor

from fedsim.audit.adapters import kinds_of
from fedsim.audit.loading import called, load
from fedsim.core.errors import FedsimError, reason
from fedsim.core.types import Batch
from fedsim.privacy.coupled import Coupled, Release, check_step

_PARTS = 3


def check_target(target: str) -> Coupled:
    """Return what neighbours show of the step that a function describes.

    Args:
        target: ``package.module:function`` or ``folder/file.py:function``, without arguments. It returns (step,
            (inputs, labels), noise multiplier), and the step is called with inputs, labels, the seed of all its
            randomness and the number of the step; it returns all that is sent, tensors by name.

    Raises:
        FedsimError: the function is not there, fails, or returns something else.
    """
    function = load(target)
    if not callable(function):
        raise FedsimError(f"'{target}' is of type {type(function).__name__}, expected a function without arguments.")
    step, batch, noise_multiplier = _parts(called(function, target), target)
    try:
        return check_step(step, batch, noise_multiplier)
    except Exception as error:  # on an ordinary record
        raise FedsimError(f"the step of '{target}' failed on one of its records: {reason(error)}.") from error


def _parts(returned: Any, target: str) -> tuple[Release, Batch, float]:
    parts = cast("tuple[Any, ...]", returned) if isinstance(returned, tuple) else (returned,)
    if len(parts) != _PARTS or not callable(parts[0]):
        raise FedsimError(
            f"'{target}' returned ({kinds_of(parts)}), expected a tuple (step, (inputs, labels), noise multiplier), "
            "whose step is a function of inputs, labels, seed and number."
        )
    return _release(parts[0], target), _batch(parts[1], target), _noise(parts[2], target)


def _release(step: Any, target: str) -> Release:
    def release(batch: Batch, seed: int, number: int) -> dict[str, Tensor]:
        sent = step(batch.inputs, batch.labels, seed, number)
        if not isinstance(sent, dict) or not all(
            isinstance(one, Tensor) for one in cast("dict[Any, Any]", sent).values()
        ):
            raise FedsimError(f"the step of '{target}' returned {type(sent).__name__}, expected tensors by name")
        return cast("dict[str, Tensor]", sent)

    return release


def _batch(records: Any, target: str) -> Batch:
    pair = cast("tuple[Any, ...]", records) if isinstance(records, tuple) else ()
    if len(pair) != 2 or not all(isinstance(part, Tensor) for part in pair) or len({len(part) for part in pair}) != 1:  # noqa: PLR2004 - as the message says
        raise FedsimError(f"'{target}': the second value is no pair (inputs, labels) of tensors of one length.")
    if len(pair[0]) < 2:  # noqa: PLR2004 - as the message says
        raise FedsimError(f"'{target}' gives {len(pair[0])} records, expected 2 at least, and 9 to try all neighbours.")
    return Batch(*pair)


def _noise(multiplier: Any, target: str) -> float:
    if isinstance(multiplier, int | float) and 0.0 < multiplier < math.inf:
        return float(multiplier)
    raise FedsimError(f"'{target}': the noise multiplier is {multiplier!r}, expected a number above 0.")
