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


def is_secure(optimizer: object) -> bool:
    """Return whether an optimizer draws its noise from ChaCha20."""
    return isinstance(optimizer, _SecureNoise)


def secured(optimizer: _T) -> _T:
    """Make an optimizer of Opacus draw from ChaCha20, in place; see `fedsim.privacy.secure_noise.secure`."""
    if is_secure(optimizer):
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
