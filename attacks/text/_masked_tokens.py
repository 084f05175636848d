"""Identify input tokens behind embedding dropout, and their dropout masks, by one linear program per token.

Dropout turns an embedding e into m e / (1 - p); a norm without centring only scales it. So the attention's input is m x
up to a factor, with x the input without dropout, and (I - P) diag(x) m = 0. For a token that is not in the batch, only
m = 0, or little more, solves this. Linear programming finds the solution m in [0, 1]^d with the largest mean, as in the
decoding of sparse errors (Candes, Tao 2005, arXiv math/0502327).
"""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from attacks.text._subspaces import Subspace
from fedsim.core.nets.layer_calls import read_by
from fedsim.core.nets.masks import disable_dropout, record_masks

_SLACK = 1e-4  # of entries of (I - P) diag(x) m, for an x with root mean square 1
_INSIDE = 0.5


def only_scales(model: nn.Module, layer: str) -> bool:
    """Return whether dropout zeroes entries of the inputs of `layer` and otherwise changes only their norm.

    Args:
        model: in training mode.
        layer: the first layer of the first attention.
    """
    token = torch.zeros(1, 1, dtype=torch.long)
    with torch.no_grad():
        (plain,) = read_by(model, [layer], token, disable_dropout())
        with record_masks(model, torch.Generator().manual_seed(0)) as recording:
            (dropped,) = read_by(model, [layer], token, nullcontext())
    if any(mask.shape != plain.shape for mask in recording.masks):
        return False
    expected = plain * torch.stack([torch.ones_like(plain), *recording.masks]).prod(0)
    return float(torch.cosine_similarity(expected.flatten(), dropped.flatten(), dim=0)) > 1.0 - _SLACK


def kept_shares(space: Subspace, inputs: Tensor) -> Tensor:
    """Return the largest mean of a mask under which each of inputs (N, d) lies in the span, shape (N,)."""
    from scipy.optimize import linprog  # noqa: PLC0415 - a run without attacks need not wait for SciPy

    eigenvalues, vectors = torch.linalg.eigh(space.outside.double())
    outside_vectors = vectors[:, eigenvalues > _INSIDE].T.numpy()
    sized = inputs.double() / inputs.double().square().mean(-1, keepdim=True).sqrt()
    shares: list[float] = []
    for row in sized.numpy():
        equations = outside_vectors * row
        bounds = np.full(2 * len(equations), _SLACK)
        optimum = linprog(-np.ones(len(row)), np.concatenate((equations, -equations)), bounds, bounds=(0, 1))
        shares.append(float(np.mean(optimum.x)))
    return torch.tensor(shares)
