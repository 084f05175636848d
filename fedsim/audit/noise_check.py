"""Check of a private step's noise generator: `fedsim check-mechanism --noise` and `fedsim audit`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import Tensor

from fedsim.audit.foreign import reason
from fedsim.audit.loading import called, load
from fedsim.core.errors import FedsimError
from fedsim.privacy.noise_recovery.recovery import subtract_noise
from fedsim.privacy.noise_recovery.result import ComputedNoise, UnknownNoise

REMEDY = (
    "Draw it from ChaCha20: optimizer = secure(optimizer) of fedsim.privacy.secure_noise for Opacus, "
    'as_mod("local-dp", ...) of fedsim.federation.mods for a Flower app'
)


def check_noise(target: str) -> ComputedNoise | UnknownNoise:
    """Return whether the noise of a step can be computed from the tensors that the step sends.

    Args:
        target: ``package.module:function`` or ``folder/file.py:function``, without arguments. It runs a step with
            the randomness of a deployment and returns the sent tensors by name, in the order in which their noise is
            drawn, with noise of equal standard deviation.

    Raises:
        FedsimError: the function is missing, fails, or returns another type.
    """
    function = load(target)
    if not callable(function):
        raise FedsimError(f"'{target}' is of type {type(function).__name__}, expected a function without arguments.")
    sent = called(function, target)
    if not isinstance(sent, dict) or not all(
        isinstance(value, Tensor) for value in cast("dict[Any, Any]", sent).values()
    ):
        raise FedsimError(f"'{target}' returned {type(sent).__name__}, expected a dict of tensors by name.")
    return subtract_noise(cast("dict[str, Tensor]", sent))[0]


def noise_note(draw: Callable[[], Mapping[str, Tensor]], seconds: float) -> str:
    """Return a sentence that states whether noise can be computed, with the remedy if so.

    Args:
        draw: returns the tensors of a private message by name, in the order in which their noise is drawn.
        seconds: after which no further attempt is begun.
    """
    try:
        sent = dict(draw())
    except Exception as error:
        return f"Whether the noise is computable is not known: drawing it failed, {reason(error).rstrip('.')}."
    outcome = subtract_noise(sent, seconds=seconds)[0]
    if isinstance(outcome, ComputedNoise):
        return f"Broken: {outcome}. {REMEDY}."
    return f"The generator of the noise is not cryptographic, though {outcome}. {REMEDY}."
