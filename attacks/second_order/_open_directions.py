"""Whether equations that hold leave the examples open.

Entries of an update may say the same: of one example, the head's gradient has K D entries and says K + D - 1 numbers.
So an update of many entries may leave directions along which examples change and all equations still hold.
"""

from __future__ import annotations

import torch
from torch import Tensor

_STEPS = 20  # an open direction stands out by orders of magnitude, after a few
_CLEAR = 10.0  # times what is added: a direction that has less has nothing of its own


def leave_open(matrix: Tensor, pixels: int) -> bool:
    """Say whether the first unknowns may change, others with them, while the equations hold up to double precision.

    Rounding, times the size of J^T J, is added to its diagonal. The least eigenvalue of what is left for the first
    unknowns, once the others follow as well as they can, is then this addition, if a direction is open. Unknowns that
    stand in no equation are not asked: no layer reads such a pixel, as at a border that strides leave out.

    Args:
        matrix: J^T J, shape (n, n), float64.
        pixels: how many unknowns come first.
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
