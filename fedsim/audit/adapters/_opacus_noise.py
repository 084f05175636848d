"""Mechanism of an Opacus optimizer: clip and noise as a defense, and its noise for the check of the generator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fedsim.audit.subject import NoisyMessage

DELTA = 1e-5  # default of dp-sgd, so that both epsilons have the same delta

_VALUES = 1 << 15  # of the check: the measured deviation of fewer values is too far from the true one
_MOST_STEPS = 2_048
_FEWEST = 16  # values of a tensor that torch draws in blocks; smaller tensors give no equation


def dp_sgd_table(clip: Any, noise: Any) -> Mapping[str, Any]:
    """Return the defense `dp-sgd` with the clip and noise multiplier of an optimizer."""
    return {"name": "dp-sgd", "delta": DELTA, "clip": float(clip), "noise_multiplier": float(noise)}


def noise_of(optimizer: Any) -> NoisyMessage | None:
    """Return the noise of steps, or None if the noise is secure, absent or not drawn on the CPU.

    The clipped gradients are 0. This is the adversary of the definition of differential privacy: it knows every example
    and tests whether one of them took part, so it subtracts the gradients. A server that does not know them
    recovers the same state where the noise is far above the update.
    """
    if _is_secure(optimizer) or not optimizer.noise_multiplier or not _is_on_cpu(optimizer):
        return None
    return NoisyMessage(lambda: _sample_noise(optimizer), float(optimizer.noise_multiplier * optimizer.max_grad_norm))


def secure_note(optimizer: Any) -> tuple[str, ...]:
    """Return the sentence about a cryptographic generator, or nothing."""
    if not optimizer.noise_multiplier or not _is_secure(optimizer):
        return ()
    return (f"The noise is not computable: {'torchcsprng' if optimizer.secure_mode else 'ChaCha20'}.",)


def _is_secure(optimizer: Any) -> bool:
    from fedsim.privacy.secure_optimizer import is_secure  # noqa: PLC0415 - imports Opacus

    return is_secure(optimizer)


def _is_on_cpu(optimizer: Any) -> bool:
    return all(parameter.device.type == "cpu" for parameter in optimizer.params)


def _sample_noise(optimizer: Any) -> dict[str, Tensor]:
    """Return the noise of enough steps; optimizer, gradients and generators are left as they were."""
    params, generator = optimizer.params, optimizer.generator
    usable = sum(parameter.numel() for parameter in params if parameter.numel() >= _FEWEST)
    steps = min(_MOST_STEPS, -(-_VALUES // usable)) if usable else 1
    kept = [(parameter.grad, parameter.summed_grad) for parameter in params]
    state = None if generator is None else generator.get_state()
    drawn: dict[str, Tensor] = {}
    with torch.random.fork_rng(devices=[]):
        try:
            for step in range(steps):
                for parameter in params:
                    parameter.summed_grad = torch.zeros_like(parameter)
                optimizer.add_noise()
                drawn |= {f"step {step}, tensor {position}": p.grad.detach() for position, p in enumerate(params)}
        finally:
            for parameter, (gradient, summed) in zip(params, kept, strict=True):
                parameter.grad, parameter.summed_grad = gradient, summed
            if generator is not None:
                generator.set_state(state)
    return drawn
