"""The noise of a defense: stated, or computed from the epsilon that a whole run may cost."""

from __future__ import annotations

from functools import partial
from typing import Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from fedsim.core.hooks import HookContext, NoiseAdder
from fedsim.core.types import Config
from fedsim.core.types.effects import NoiseGenerator, PrivateNoise
from fedsim.privacy.accounting import noise_multiplier
from fedsim.privacy.secure_noise import normal
from fedsim.privacy.stream import KEY_BYTES, key_stream

_SEED_WORDS = 8  # of 32 bits: no seed that could be guessed


class Budget(Config):
    """Settings of all defenses with a formal guarantee."""

    noise_multiplier: float | None = Field(
        default=None,
        ge=0,
        description="standard deviation of the noise, in units of clip; 1 where neither this nor target_epsilon is set",
    )
    target_epsilon: float | None = Field(
        default=None,
        gt=0,
        description="epsilon of all rounds together for a client in every round; replaces noise_multiplier",
    )
    delta: float = Field(default=1e-5, gt=0, lt=1, description="delta at which epsilon is stated")
    generator: NoiseGenerator = Field(
        default="unpredictable",
        description="generator of a simulated client's noise, as attackers know it: unpredictable leaves it out of the "
        "question, torch is the default of torch and Opacus on the CPU, numpy that of Flower's mods, "
        "chacha20 the remedy",
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.noise_multiplier is not None and self.target_epsilon is not None:
            raise ValueError("noise_multiplier and target_epsilon exclude each other: set only one")
        return self

    def multiplier(self, sampling_rate: float, steps: int, *, sensitivity: float) -> float:
        """Return the standard deviation of the noise, in units of `clip`.

        Args:
            sampling_rate: probability that the protected unit is sampled in a step.
            steps: number of noisy steps in the whole run.
            sensitivity: in units of `clip`; 2 for neighbours that replace a unit.
        """
        if self.target_epsilon is None:
            return 1.0 if self.noise_multiplier is None else self.noise_multiplier
        return sensitivity * noise_multiplier(self.target_epsilon, self.delta, sampling_rate, steps)

    @property
    def noise(self) -> tuple[PrivateNoise, ...]:
        """Return the noise as known to an attacker that knows the defense; empty without noise."""
        if self.target_epsilon is not None:
            return (PrivateNoise("gaussian", epsilon=self.target_epsilon, generator=self.generator),)
        multiplier = self.multiplier(1.0, 1, sensitivity=1.0)
        return (PrivateNoise("gaussian", multiplier, generator=self.generator),) if multiplier else ()

    def noise_adder(self, context: HookContext) -> NoiseAdder:
        """Return a function that adds Gaussian noise, of the stated generator unless a real node has a secure source.

        Its calls continue one stream of noise: call it for the tensors of a message in their order.
        """
        if context.secure_noise is not None:
            return context.add_noise
        if self.generator == "numpy":
            return _numpy_adder(context.generator)
        return partial(_add_from_chacha20, context.generator) if self.generator == "chacha20" else context.add_noise


def _numpy_adder(seeds: torch.Generator) -> NoiseAdder:
    """Return a function that adds noise as Flower's mods do: ``numpy.random.normal``, cast to the tensor's type."""
    source = np.random.RandomState(torch.randint(1 << 32, (_SEED_WORDS,), generator=seeds).numpy())

    def add(tensor: Tensor, deviation: float) -> Tensor:
        return tensor + torch.as_tensor(source.normal(0.0, deviation, tuple(tensor.shape))).to(tensor)

    return add


def _add_from_chacha20(keys: torch.Generator, tensor: Tensor, deviation: float) -> Tensor:
    key = bytes(torch.randint(256, (KEY_BYTES,), generator=keys).tolist())
    return tensor + deviation * normal(tensor, partial(key_stream, key))
