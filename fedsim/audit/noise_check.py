"""Check of a private step's noise generator: `fedsim check-mechanism --noise` and `fedsim audit`."""

from __future__ import annotations

import math
from typing import Any, cast

from torch import Tensor

from fedsim.audit.foreign import reason
from fedsim.audit.loading import call_factory, load
from fedsim.audit.subject import NoisyMessage
from fedsim.core.errors import FedsimError
from fedsim.privacy.noise_recovery.recovery import subtract_noise
from fedsim.privacy.noise_recovery.result import ComputedNoise, UnknownNoise

REMEDY = (
    "Draw it from ChaCha20: optimizer = secure(optimizer) of fedsim.privacy.secure_optimizer for Opacus, "
    'as_mod("local-dp", ...) of fedsim.federation.mods for a Flower app'
)


def check_noise(target: str) -> ComputedNoise | UnknownNoise:
    """Return whether the noise of a step can be computed from the tensors that the step sends.

    Args:
        target: ``package.module:function`` or ``folder/file.py:function``, without arguments. It runs a step with
            the randomness of a deployment and returns the sent tensors by name, in the order in which their noise is
            drawn, with noise of equal standard deviation; or these tensors and the deviation, a number above 0.

    Raises:
        FedsimError: the function is missing, fails, or returns another type.
    """
    function = load(target)
    if not callable(function):
        raise FedsimError(f"'{target}' is of type {type(function).__name__}, expected a function without arguments.")
    sent, deviation = _check_message(call_factory(function, target), target)
    return subtract_noise(sent, deviation=deviation)[0]


def _check_message(returned: Any, target: str) -> tuple[dict[str, Tensor], float | None]:
    """Return the tensors of a message and the stated deviation of their noise, or None.

    Raises:
        FedsimError: the function returned another type, or states a deviation that is no finite number above 0.
    """
    match returned:
        case (dict() as sent, bool() | int() | float() as deviation):
            _check_deviation(deviation, target)
        case dict() as sent:
            deviation = None
        case _:
            raise _other_type(returned, target)
    tensors = cast("dict[str, Any]", sent)
    if not all(isinstance(value, Tensor) for value in tensors.values()):
        raise _other_type(returned, target)
    return tensors, deviation


def _other_type(returned: Any, target: str) -> FedsimError:
    return FedsimError(
        f"'{target}' returned {type(returned).__name__}, expected a dict of tensors by name, or a tuple of this dict "
        "and the standard deviation of the noise."
    )


def _check_deviation(value: float, target: str) -> None:
    if isinstance(value, bool) or not 0 < value < math.inf:
        raise FedsimError(f"'{target}' states the deviation {value} of its noise, expected a finite number above 0.")


def noise_note(message: NoisyMessage, seconds: float) -> str:
    """Return a sentence that states whether the noise of a message can be computed, with the remedy if so.

    Args:
        message: is drawn once.
        seconds: after which no further attempt is begun.
    """
    try:
        sent = dict(message.draw())
    except Exception as error:
        return f"Whether the noise is computable is not known: drawing it failed, {reason(error).rstrip('.')}."
    outcome = subtract_noise(sent, seconds=seconds, deviation=message.deviation)[0]
    if isinstance(outcome, ComputedNoise):
        return f"Broken: {outcome}. {REMEDY}."
    return f"The generator of the noise is not cryptographic, though {outcome}. {REMEDY}."
