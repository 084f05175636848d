"""Per-element secure aggregation: a sum is disclosed only at elements to which enough clients contributed.

A plain sum does not protect an element with a single contributing client: if all others sent zero, the sum is that
client's value. Rows of an embedding and of an imprint layer are such elements (arXiv 2508.04285). In ideal mode a
trusted party counts the clients that sent a non-zero value to each element, and discloses neither sum nor count if they
are too few; `per_element_protocol` needs no trusted party.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fedsim.core.errors import FedsimError
from fedsim.privacy.secure_aggregation.ring import reduce

ALWAYS_TOLD = 2  # entries of a sum: the loss, and the total weight


class Disclosed(NamedTuple):
    """Disclosed part of a sum.

    Attributes:
        total: the sum (P + 2,), zero at concealed elements.
        disclosed_mask: mask of the disclosed elements of the update, shape (P,); None if all are disclosed.
    """

    total: Tensor
    disclosed_mask: Tensor | None


def with_contributions(levels: Tensor, update: Tensor) -> Tensor:
    """Return a client's upload, shape (2P + 2,): its levels, and 1 for each element to which it contributes.

    Args:
        levels: levels of update and loss, followed by the weight.
        update: before the rounding, shape (P,). A client of weight 0 contributes nothing.
    """
    contributes = (update != 0).to(levels) * (levels[-1] > 0)
    return torch.cat((levels, contributes))


def tell(total: Tensor, least: int, modulus_bits: int) -> Disclosed:
    """Return the disclosed part of a sum of uploads; an element needs at least `least` contributing clients.

    Raises:
        FedsimError: a sum of uploads without contributions.
    """
    if least == 1:
        return Disclosed(total, None)
    values, counts = halves(reduce(total, modulus_bits))
    revealed = counts >= least
    return Disclosed(values * with_always_told(revealed), revealed)


def halves(vector: Tensor) -> tuple[Tensor, Tensor]:
    """Return the levels (P + 2,) and the contributions (P,) of an upload, or of a sum of uploads.

    Raises:
        FedsimError: a vector without contributions.
    """
    size, remainder = divmod(len(vector) - ALWAYS_TOLD, 2)
    if remainder or size < 0:
        raise FedsimError(f"a vector of {len(vector)} entries holds no contributions. Use with_contributions.")
    values, counts = vector.split((size + ALWAYS_TOLD, size))
    return values, counts


def with_always_told(revealed: Tensor) -> Tensor:
    """Return the mask of disclosed entries of a sum (P + 2,), from the mask of disclosed elements (P,)."""
    return torch.cat((revealed, revealed.new_ones(ALWAYS_TOLD)))
