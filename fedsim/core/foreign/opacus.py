"""Undocumented names of Opacus. The import takes seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opacus.accountants.analysis.prv import (
    Domain,
    PoissonSubsampledGaussianPRV,
    TruncatedPrivacyRandomVariable,
    compose_heterogeneous,
    discretize,
)
from opacus.accountants.analysis.rdp import compute_rdp
from opacus.grad_sample import GradSampleHooks, GradSampleHooksFastGradientClipping
from opacus.grad_sample.functorch import ft_compute_per_sample_gradient
from torch import nn

__all__ = [
    "Domain",
    "PoissonSubsampledGaussianPRV",
    "TruncatedPrivacyRandomVariable",
    "compose_heterogeneous",
    "compute_rdp",
    "discretize",
    "ft_compute_per_sample_gradient",
    "gradient_rule",
    "inner_module",
    "norm_rule",
]

Rule = Callable[..., Any]
"""Function of a module, its list of inputs, and the gradient of its output."""


def gradient_rule(module: nn.Module) -> Rule | None:
    """Return the rule for per-example gradients of a module's class; None if Opacus has no rule."""
    return GradSampleHooks.GRAD_SAMPLERS.get(type(module))


def norm_rule(module: nn.Module) -> Rule | None:
    """Return the rule for norms of per-example gradients of a module's class; None if Opacus has no rule."""
    return GradSampleHooksFastGradientClipping.NORM_SAMPLERS.get(type(module))


def inner_module(wrapped: Any) -> nn.Module:
    """Return the module inside a wrapper of Opacus."""
    return wrapped._module
