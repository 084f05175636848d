"""Tokens that were read through dropout on their embedding: a linear program a token, which finds the mask too.

Dropout turns an embedding e into m e / (1 - p), and a norm without centring only scales that: the attention read m x up
to a factor, x being what it reads without dropout. So (I - P) diag(x) m = 0, which for a token that was not there only
m = 0 solves, or little more. Of all m in [0, 1]^d that do, the one with the largest mean is taken: linear programming
(Candes, Tao 2005, arXiv math/0502327, decode sparse errors so).
"""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from attacks.text._subspaces import Subspace
from fedsim.core.layer_calls import read_by
from fedsim.core.masks import recorded_masks, without_dropout

_SLACK = 1e-4  # of entries of (I - P) diag(x) m, of an x with root mean square 1
_INSIDE = 0.5


def only_scales(model: nn.Module, layer: str) -> bool:
    """Say whether dropout in front of what `layer` reads sets entries of it to zero, and else changes its length alone.

    Args:
        model: in training mode.
        layer: that reads first in the first attention.
    """
    token = torch.zeros(1, 1, dtype=torch.long)
    with torch.no_grad():
        (plain,) = read_by(model, [layer], token, without_dropout())
        with recorded_masks(model, torch.Generator().manual_seed(0)) as recording:
            (dropped,) = read_by(model, [layer], token, nullcontext())
    if any(mask.shape != plain.shape for mask in recording.masks):
        return False
    expected = plain * torch.stack([torch.ones_like(plain), *recording.masks]).prod(0)
    return float(torch.cosine_similarity(expected.flatten(), dropped.flatten(), dim=0)) > 1.0 - _SLACK


def kept_shares(space: Subspace, inputs: Tensor) -> Tensor:
    """Return the largest mean of a mask under which each of inputs (N, d) lies in the span, shape (N,)."""
    from scipy.optimize import linprog  # noqa: PLC0415 - a run without attacks need not wait for SciPy

    eigenvalues, vectors = torch.linalg.eigh(space.outside.double())
    outside = vectors[:, eigenvalues > _INSIDE].T.numpy()
    sized = inputs.double() / inputs.double().square().mean(-1, keepdim=True).sqrt()
    shares: list[float] = []
    for own in sized.numpy():
        equations = outside * own
        bounds = np.full(2 * len(equations), _SLACK)
        found = linprog(-np.ones(len(own)), np.concatenate((equations, -equations)), bounds, bounds=(0, 1))
        shares.append(float(np.mean(found.x)))
    return torch.tensor(shares)
