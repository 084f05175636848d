"""Check of a private step's noise generator: `fedsim check-mechanism --noise`."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor

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
    if not isinstance(sent, dict) or not all(isinstance(one, Tensor) for one in cast("dict[Any, Any]", sent).values()):
        raise FedsimError(f"'{target}' returned {type(sent).__name__}, expected a dict of tensors by name.")
    return subtract_noise(cast("dict[str, Tensor]", sent))[0]
