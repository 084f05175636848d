"""Test whether satisfied equations determine the examples uniquely.

Entries of an update may be dependent: for a single example, the head's gradient has K D entries and K + D - 1 degrees
of freedom. So an update of many entries may have null directions, along which examples change and all equations still
hold.
"""

from __future__ import annotations

import torch
from torch import Tensor

_STEPS = 20  # a null direction dominates by orders of magnitude, after a few
_CLEAR = 10.0  # ratio to the added diagonal below which a direction counts as a null direction


def leave_open(matrix: Tensor, pixels: int) -> bool:
    """Return whether the first unknowns have a null direction, with changes of the others, up to double precision.

    Rounding, times the size of J^T J, is added to its diagonal. With a null direction, the least eigenvalue of the
    Schur complement of the first unknowns equals this addition. Unknowns without any equation are ignored: no layer
    reads such a pixel, as at a border that strides omit.

    Args:
        matrix: J^T J, shape (n, n), float64.
        pixels: number of the first unknowns.
    """
    are_read = matrix.diagonal() > 0.0
    matrix, pixels = matrix[are_read][:, are_read], int(are_read[:pixels].sum())
    added = len(matrix) ** 0.5 * torch.finfo(matrix.dtype).eps * float(matrix.norm())
    factor, failed = torch.linalg.cholesky_ex(matrix + added * torch.eye(len(matrix)).to(matrix))
    if int(failed):
        return True
    direction = torch.zeros(len(matrix), 1, dtype=matrix.dtype, device=matrix.device)
    direction[:pixels, 0] = torch.randn(pixels, generator=torch.Generator().manual_seed(0)).to(matrix)
    size = 0.0
    for _ in range(_STEPS):
        direction = torch.cholesky_solve(direction / direction.norm(), factor)
        direction[pixels:] = 0.0
        size = float(direction.norm())
    return size * _CLEAR * added > 1.0
