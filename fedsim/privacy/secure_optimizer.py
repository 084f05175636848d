"""Opacus optimizers with noise from ChaCha20."""

from __future__ import annotations

from typing import Any, TypeVar

from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping, DPPerLayerOptimizer

from fedsim.core.errors import FedsimError
from fedsim.privacy.secure_noise import normal

_T = TypeVar("_T", bound=DPOptimizer)


class _SecureNoise(DPOptimizer):
    """Adds the noise of ``add_noise`` from ChaCha20. It is a class, so that a copy of an optimizer is secure too."""

    def add_noise(self) -> None:
        """Add Gaussian noise to the clipped gradients, and write the result to ``p.grad``."""
        multiplier = self.noise_multiplier
        self.noise_multiplier = 0.0  # Opacus then writes the clipped sum, and no noise of its own
        try:
            super().add_noise()
        finally:
            self.noise_multiplier = multiplier
        for parameter in self.params:
            gradient = parameter.grad
            assert gradient is not None, "written by Opacus"
            gradient.add_(normal(gradient), alpha=multiplier * self.max_grad_norm)

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes, for a copy. torch's own list of attributes does not fit an optimizer of Opacus."""
        return vars(self).copy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Set the attributes of a copy. The copy reports its steps to the accountant of the original."""
        vars(self).update(state)
        for parameter in self.params:
            vars(parameter).setdefault("summed_grad", None)  # torch copies no attributes of parameters


class SecureDPOptimizer(_SecureNoise, DPOptimizer):
    """Clips the gradient of each example."""


class SecureFastGradientClipping(_SecureNoise, DPOptimizerFastGradientClipping):
    """Ghost clipping."""


class SecurePerLayerOptimizer(_SecureNoise, DPPerLayerOptimizer):
    """Clips the gradient of each example layer by layer."""


_SECURE: dict[type[Any], type[Any]] = {
    DPOptimizer: SecureDPOptimizer,
    DPOptimizerFastGradientClipping: SecureFastGradientClipping,
    DPPerLayerOptimizer: SecurePerLayerOptimizer,
}


def is_secure(optimizer: DPOptimizer) -> bool:
    """Return whether an optimizer draws its noise from ChaCha20, or from torchcsprng by Opacus' ``secure_mode``."""
    return isinstance(optimizer, _SecureNoise) or bool(optimizer.secure_mode)


def opacus_class(optimizer: DPOptimizer) -> type[Any]:
    """Return the class that an optimizer had before `secure`."""
    return next((plain for plain, kind in _SECURE.items() if type(optimizer) is kind), type(optimizer))


def secure(optimizer: _T) -> _T:
    """Have an optimizer of Opacus draw its noise from ChaCha20, and return it.

    ``optimizer = secure(optimizer)`` after ``PrivacyEngine.make_private``, with any clipping by example, ghost clipping
    or Poisson sampling. Everything else of the optimizer stays as it is.

    Raises:
        FedsimError: it is no optimizer of Opacus, or of a kind that draws noise elsewhere too (adaptive clipping,
            several processes).
    """
    if isinstance(optimizer, _SecureNoise):
        return optimizer
    kind = _SECURE.get(type(optimizer))
    if kind is None:
        expected = ", ".join(known.__name__ for known in _SECURE)
        raise FedsimError(
            f"secure() cannot change the noise of {type(optimizer).__name__}. Expected any of "
            f"{expected}: call it with the optimizer that PrivacyEngine.make_private returns, "
            "without adaptive clipping and distributed training."
        )
    optimizer.__class__ = kind
    return optimizer
