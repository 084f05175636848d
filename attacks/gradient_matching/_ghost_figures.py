"""Inner products and norms of gradients that are never built; observed gradients of low rank are kept as factors."""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.gradient_matching._watched_calls import Outer, Part

_SKETCHES = (16, 96)
_FACTORED = {torch.float32: 3e-7, torch.float64: 1e-13}


class Factors(NamedTuple):
    """Observed gradients of V victims as left (V, out, r) times right (V, in, r) transposed."""

    left: Tensor
    right: Tensor


class Vectors:
    """Observed gradients of T tensors with one outer product per row, their factors concatenated.

    Small models then need a few operations; one call for each tensor would need dozens.
    """

    def __init__(self, targets: list[Factors]) -> None:
        self.left, self._outs = _side_by_side([target.left for target in targets])
        self.right, self._ins = _side_by_side([target.right for target in targets])

    def inner(self, whole: Outer, victims: list[int]) -> Tensor:
        """Return inner products (R, T); `whole` holds the concatenated deltas and inputs of all T tensors."""
        ours = (whole.deltas * _of(self.left, victims)) @ self._outs
        return (ours * ((whole.inputs * _of(self.right, victims)) @ self._ins)).sum(1)

    def squared(self, whole: Outer) -> Tensor:
        """Return squared norms (R, T)."""
        return ((whole.deltas.square() @ self._outs) * (whole.inputs.square() @ self._ins))[:, 0]


def _side_by_side(factors: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Concatenate factors (V, size, r) to (V, greatest r, sum of sizes), with one-hot owners (sum of sizes, T)."""
    rank = max(factor.shape[2] for factor in factors)
    joined = torch.cat([F.pad(factor.mT, (0, 0, 0, rank - factor.shape[2])) for factor in factors], 2)
    owner = torch.arange(len(factors)).repeat_interleave(torch.tensor([factor.shape[1] for factor in factors]))
    return joined, F.one_hot(owner, len(factors)).to(joined)


class Figures:
    """Figures of R rows from the parts of their gradients; those of the `single` tensors are computed together."""

    def __init__(
        self,
        parts: dict[str, Part],
        targets: dict[str, Factors | Tensor],
        vectors: Vectors | None,
        single: tuple[str, ...],
        norms: Tensor,
        victims: list[int],
    ) -> None:
        self._targets = targets
        self._vectors = vectors
        self._norms = norms
        self._victims = victims
        together = [cast("Outer", parts[name]) for name in single]
        self._whole = Outer(*(torch.cat(side, 2) for side in zip(*together, strict=True))) if together else None
        self._others = {name: part for name, part in parts.items() if name not in single}
        names = [*single, *self._others]
        self._order = None if names == list(parts) else [names.index(name) for name in parts]

    def inner(self) -> Tensor:
        others = [_inner(part, self._targets[n], self._victims) for n, part in self._others.items()]
        if self._vectors is None or self._whole is None:
            return torch.stack(others, 1)
        return self._in_order(self._vectors.inner(self._whole, self._victims), others)

    def squared(self) -> Tensor:
        others = [
            part.squared() if isinstance(part, Outer) else part.square().flatten(1).sum(1)
            for part in self._others.values()
        ]
        if self._vectors is None or self._whole is None:
            return torch.stack(others, 1)
        return self._in_order(self._vectors.squared(self._whole), others)

    def _in_order(self, single: Tensor, others: list[Tensor]) -> Tensor:
        joined = torch.cat([single, torch.stack(others, 1)], 1) if others else single
        return joined if self._order is None else joined[:, self._order]

    def difference(self) -> Tensor:
        return self.squared() - 2.0 * self.inner() + self.observed()

    def observed(self) -> Tensor:
        return self._norms[self._victims]


def _inner(part: Part, target: Factors | Tensor, victims: list[int]) -> Tensor:
    if isinstance(target, Tensor):
        values = _of(target, victims)
        if isinstance(part, Outer):
            return ((part.deltas @ values) * part.inputs).sum((1, 2))
        return (part.flatten(1) * values.flatten(1)).sum(1)
    left, right = _of(target.left, victims), _of(target.right, victims)
    if isinstance(part, Outer):
        return (_product(part.deltas, left) * _product(part.inputs, right)).sum((1, 2))
    return ((part.flatten(2) @ right) * left).sum((1, 2))


def _product(one: Tensor, other: Tensor) -> Tensor:
    """Return one @ other; single rows element by element, because batched matrix products are slow for them."""
    if one.shape[1] == 1:
        return (one.mT * other).sum(1, keepdim=True)
    return one @ other


def _of(values: Tensor, victims: list[int]) -> Tensor:
    """Rows of `values` for the victims, without a copy when all rows have one victim or each row its own."""
    if len(values) == 1 or victims == list(range(len(values))):
        return values
    return values[victims]


def target_of(tensors: list[Tensor]) -> Factors | Tensor:
    """Observed gradients of all victims: as factors when all have low rank, else stacked, matrices flattened."""
    if tensors[0].ndim == 1:
        return torch.stack(tensors)
    stacked = torch.stack([tensor.flatten(1) for tensor in tensors])
    sides = stacked.shape[1:]
    for width in _SKETCHES:
        factors = _factorise(stacked, min(width, *sides))
        if factors is not None:
            return factors if factors.left.shape[2] * sum(sides) < math.prod(sides) else stacked
    return stacked


def _factorise(matrices: Tensor, width: int) -> Factors | None:
    """Factors of matrices (V, out, in) up to rounding, of the least rank that fits all, or None from `width` on."""
    exact = matrices.double()
    sketch = torch.randn((matrices.shape[2], width), generator=torch.Generator().manual_seed(0)).to(exact)
    left = torch.linalg.qr(exact @ sketch).Q
    right = exact.mT @ left
    norms = exact.flatten(1).norm(dim=1)
    rounding = _FACTORED.get(matrices.dtype, 0.0)
    if bool(((exact - left @ right.mT).flatten(1).norm(dim=1) > rounding * norms).any()):
        return None
    energy, vectors = torch.linalg.eigh(right.mT @ right)  # ascending
    lost = energy.clamp_min(0.0).cumsum(1).sqrt() <= rounding * norms[:, None]
    turned = vectors[:, :, int(lost.sum(1).min()) :]
    return Factors((left @ turned).to(matrices), (right @ turned).to(matrices))


def is_single(part: Part) -> bool:
    """Whether each row's gradient is one outer product."""
    return isinstance(part, Outer) and part.inputs.shape[1] == 1
