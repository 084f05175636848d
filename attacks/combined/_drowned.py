"""Test before any search: does noise of a known scale leave anything of a gradient?

Pure noise of standard deviation s on a matrix (m, n) has a largest singular value of about s (sqrt(m) + sqrt(n)), and
the squared norm of N noisy entries is s^2 N up to a few multiples of s^2 sqrt(N). The gradient of an example adds a
singular value to each layer. If no tensor exceeds the noise in either figure, and neither does the whole update, the
gradient is lost in the noise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from attacks.core.defense_facts import noise_of
from fedsim.core.types import Observation
from fedsim.core.types.effects import AddedNoise, Noise, PrivateNoise

# Small margins: an attack that matches a structured gradient recovers some of it just below these limits.
_DEVIATIONS = 2.0  # of the squared norm of noise alone
_MARGIN = 0.5  # of the largest singular value, in standard deviations of an entry
_POWERS = 40
_FOURTH_MOMENTS = {"gaussian": 3.0, "laplace": 6.0}  # of noise of variance 1
_MATRIX = 2


def why_drowned(observation: Observation) -> str | None:
    """Return why the known noise leaves nothing of a single gradient, as a clause, or None."""
    noise = _plain_noise(observation)
    if noise is None:
        return None
    tensors = sorted(observation.update.tensors.values(), key=Tensor.numel)
    scaled = [tensor.double() / noise.scale for tensor in tensors]
    whole = torch.cat([tensor.flatten() for tensor in scaled])
    if _exceeds_norm(whole, noise) or any(_exceeds_noise(tensor, noise) for tensor in scaled):
        return None
    return f"the noise hides the gradient: no tensor exceeds noise of the known standard deviation {noise.scale:.2g}"


def _plain_noise(observation: Observation) -> AddedNoise | None:
    """Return noise of a known scale on every entry of a single gradient that no attack can subtract or average."""
    noise, effects = noise_of(observation), observation.effects(Noise)
    computable = any(isinstance(effect, PrivateNoise) and effect.generator != "unpredictable" for effect in effects)
    if noise is None or noise.is_relative or noise.share < 1.0 or computable or observation.earlier_observations:
        return None
    is_single = observation.threat.view == "single-update" and observation.local_steps == 1
    return noise if is_single and observation.update.kind == "gradient" else None


def _exceeds_noise(tensor: Tensor, noise: AddedNoise) -> bool:
    return _exceeds_norm(tensor, noise) or (tensor.ndim >= _MATRIX and _exceeds_edge(tensor.flatten(1)))


def _exceeds_norm(tensor: Tensor, noise: AddedNoise) -> bool:
    spread = math.sqrt((_FOURTH_MOMENTS[noise.law] - 1.0) * tensor.numel())
    return float(tensor.square().sum()) > tensor.numel() + _DEVIATIONS * spread


def _exceeds_edge(matrix: Tensor) -> bool:
    """Return whether the largest singular value, by power iteration, exceeds that of noise of variance 1."""
    vector = torch.randn(matrix.shape[1], generator=torch.Generator().manual_seed(0), dtype=matrix.dtype)
    for _ in range(_POWERS):
        vector = matrix.T @ (matrix @ vector)
        vector = vector / vector.norm()
    return float((matrix @ vector).norm()) > sum(map(math.sqrt, matrix.shape)) + _MARGIN
