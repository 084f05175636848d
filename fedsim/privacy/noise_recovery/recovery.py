"""Noise of a message by all means: small and usual seeds first, then the state of MT19937 in NumPy and in torch."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedsim.core.types import Tensors
from fedsim.privacy.noise_recovery.legacy_recovery import recover_legacy_state
from fedsim.privacy.noise_recovery.result import ComputedNoise, UnknownNoise, flatten_tensors
from fedsim.privacy.noise_recovery.seed_guessing import SMALL_SEEDS, guess_seed
from fedsim.privacy.noise_recovery.state_recovery import recover_state

_SECONDS = 120.0
_FOR_LEGACY = 0.25  # share of the time for NumPy's state: torch's generator is more frequent, and takes longer


def subtract_noise(
    sent: Tensors, most_seeds: int = SMALL_SEEDS, seconds: float = _SECONDS, *, deviation: float | None = None
) -> tuple[ComputedNoise | UnknownNoise, Tensors]:
    """Return the recovered noise and the tensors without it, or the failure and the unchanged tensors.

    Tensors that the noise does not fit stay unchanged too: `ComputedNoise.fraction` is below 1 then.

    Args:
        sent: an update plus noise of equal standard deviation, float32 or float64, in the order of the draws.
        most_seeds: number of seeds from 0 to test, besides usual seeds.
        seconds: time limit for the start of a further attempt.
        deviation: standard deviation of the noise, > 0. By default it is measured by regression of the tensors on the
            noise. In n coordinates, an update of norm r then leaves an error of the size of r / n in the deviation.
    """
    start = time.perf_counter()
    entries = flatten_tensors(list(sent.values())) if sent else torch.zeros(0)
    size = float(entries.square().mean().sqrt()) if len(entries) else 0.0
    if not 0.0 < size < math.inf:
        return UnknownNoise("nothing was sent, or numbers that are not finite", time.perf_counter() - start), sent
    unit = size if deviation is None else deviation
    outcome = recover_noise([tensor / unit for tensor in sent.values()], None, most_seeds, seconds)
    if isinstance(outcome, UnknownNoise):
        return outcome, sent
    noise = flatten_tensors(outcome.noise)
    scale = float(entries @ noise / (noise @ noise)) if deviation is None else deviation
    parts = zip(sent.items(), outcome.noise, strict=True)
    return outcome, {name: (t.double() - scale * part.double()).to(t.dtype) for (name, t), part in parts}


def recover_noise(
    values: Sequence[Tensor],
    quiet: Sequence[Tensor] | None = None,
    most_seeds: int = SMALL_SEEDS,
    seconds: float = _SECONDS,
) -> ComputedNoise | UnknownNoise:
    """Return the noise of variance 1 that was added to an update, if its generator is weak.

    Full-entropy Philox (CUDA with a random seed), PCG64 with a random seed and cryptographic generators withstand.
    NumPy's legacy generator with a random seed is recovered only where thousands of values are the noise alone, and
    its standard deviation is exact to about 2^-23.

    Args:
        values: the noisy update, in standard deviations of the noise: a float32 or float64 tensor for each draw, in
            order.
        quiet: for each tensor a mask, True where the update is thought to be 0; by default nothing is assumed.
        most_seeds: number of seeds from 0 to test, besides usual seeds.
        seconds: time limit for the start of a further attempt.
    """
    start = time.perf_counter()
    guessed = guess_seed(values, most_seeds)
    if isinstance(guessed, ComputedNoise):
        return guessed
    legacy = recover_legacy_state(values, _FOR_LEGACY * (seconds - (time.perf_counter() - start)))
    if isinstance(legacy, ComputedNoise):
        return replace(legacy, seconds=time.perf_counter() - start)
    solved = recover_state(values, quiet, seconds - (time.perf_counter() - start))
    passed = time.perf_counter() - start
    if isinstance(solved, ComputedNoise):
        return replace(solved, seconds=passed)
    reasons = f"{guessed.reason}; NumPy's state: {legacy.reason}; state of MT19937: {solved.reason}"
    return UnknownNoise(reasons, passed)
