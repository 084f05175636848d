"""Inner products and norms of implicit gradients; observed gradients of low rank are stored as factors."""

from __future__ import annotations

import math
from functools import cached_property
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.core.matching.watched_calls import Outer, Part

_SKETCHES = (16, 96)
_FACTORED = {torch.float32: 3e-7, torch.float64: 1e-13}


class GradientFactors(NamedTuple):
    """Observed gradients of V victims as left (V, out, r) times right (V, in, r) transposed."""

    left_factor: Tensor
    right_factor: Tensor


class Vectors:
    """Observed gradients of T tensors with an outer product per row, their factors concatenated.

    Small models then need a few operations; a call for each tensor would need dozens.
    """

    def __init__(self, targets: list[GradientFactors]) -> None:
        self.left, self._outs = _side_by_side([target.left_factor for target in targets])
        self.right, self._ins = _side_by_side([target.right_factor for target in targets])

    def inner(self, whole: Outer, victims: list[int]) -> Tensor:
        """Return inner products (R, T); `whole` holds the concatenated deltas and inputs of all T tensors."""
        ours = (whole.deltas * _rows_of(self.left, victims)) @ self._outs
        return (ours * ((whole.inputs * _rows_of(self.right, victims)) @ self._ins)).sum(1)

    def squared_norms(self, whole: Outer) -> Tensor:
        """Return squared norms (R, T)."""
        return ((whole.deltas.square() @ self._outs) * (whole.inputs.square() @ self._ins))[:, 0]


def _side_by_side(factors: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Concatenate factors (V, size, r) to (V, greatest r, sum of sizes), with one-hot owners (sum of sizes, T)."""
    rank = max(factor.shape[2] for factor in factors)
    joined = torch.cat([F.pad(factor.mT, (0, 0, 0, rank - factor.shape[2])) for factor in factors], 2)
    owner = torch.arange(len(factors)).repeat_interleave(torch.tensor([factor.shape[1] for factor in factors]))
    return joined, F.one_hot(owner, len(factors)).to(joined)


class Entries:
    """Observed gradients of T tensors that are compared entry by entry, concatenated.

    Biases and scales are many and small, so a few operations compute the results of all.
    """

    def __init__(self, targets: list[Tensor]) -> None:
        sizes = torch.tensor([target[0].numel() for target in targets])
        self._values = torch.cat([target.flatten(1) for target in targets], 1)  # (V, N)
        self._owner = torch.arange(len(targets)).repeat_interleave(sizes).to(self._values.device)
        self._count = len(targets)

    def figures(self, parts: list[Tensor], victims: list[int]) -> tuple[Tensor, Tensor]:
        """Return inner products and squared norms of gradients (R, ...), shape (R, T) each."""
        ours = torch.cat([part.flatten(1) for part in parts], 1)
        return self._sums(ours * _rows_of(self._values, victims)), self._sums(ours.square())

    def _sums(self, values: Tensor) -> Tensor:
        empty = values.new_zeros(len(values), self._count)
        return empty.scatter_add(1, self._owner.expand_as(values), values)


class GhostLayout:
    """Groups of tensors that are compared together: an outer product per row, entry by entry, and all others."""

    def __init__(self, parts: dict[str, Part], targets: dict[str, GradientFactors | Tensor]) -> None:
        self.single = [n for n, p in parts.items() if is_single(p) and isinstance(targets[n], GradientFactors)]
        self.entries = [n for n, p in parts.items() if isinstance(p, Tensor) and isinstance(targets[n], Tensor)]
        self.others = [n for n in parts if n not in self.single and n not in self.entries]
        self.vectors = Vectors([cast("GradientFactors", targets[n]) for n in self.single]) if self.single else None
        self.values = Entries([cast("Tensor", targets[n]) for n in self.entries]) if self.entries else None
        names = [*self.single, *self.entries, *self.others]
        self.order = None if names == list(parts) else [names.index(name) for name in parts]


class GhostFigures:
    """Inner products and norms of R rows from the parts of their gradients."""

    def __init__(
        self,
        parts: dict[str, Part],
        targets: dict[str, GradientFactors | Tensor],
        layout: GhostLayout,
        norms: Tensor,
        victims: list[int],
    ) -> None:
        self._parts = parts
        self._targets = targets
        self._layout = layout
        self._norms = norms
        self._victims = victims

    def inner(self) -> Tensor:
        """Return inner products with the observed gradient, shape (R, T)."""
        return self._all[0]

    def squared_norms(self) -> Tensor:
        """Return squared norms, shape (R, T)."""
        return self._all[1]

    @cached_property
    def _all(self) -> tuple[Tensor, Tensor]:
        """Inner products and squared norms, shape (R, T) each."""
        layout, pairs = self._layout, list[tuple[Tensor, Tensor]]()
        if layout.vectors is not None:
            single_parts = [cast("Outer", self._parts[name]) for name in layout.single]
            whole = Outer(*(torch.cat(side, 2) for side in zip(*single_parts, strict=True)))
            pairs.append((layout.vectors.inner(whole, self._victims), layout.vectors.squared_norms(whole)))
        if layout.values is not None:
            pairs.append(layout.values.figures([cast("Tensor", self._parts[n]) for n in layout.entries], self._victims))
        pairs += [self._figures_of(name) for name in layout.others]
        inner, squared = (torch.cat(side, 1) for side in zip(*pairs, strict=True))
        return (inner, squared) if layout.order is None else (inner[:, layout.order], squared[:, layout.order])

    def _figures_of(self, name: str) -> tuple[Tensor, Tensor]:
        part = self._parts[name]
        squared = part.squared_norms() if isinstance(part, Outer) else part.square().flatten(1).sum(1)
        return _inner(part, self._targets[name], self._victims)[:, None], squared[:, None]

    def difference(self) -> Tensor:
        """Return squared norms of the difference to the observed gradient, shape (R, T)."""
        return self.squared_norms() - 2.0 * self.inner() + self.observed_squared_norms()

    def observed_squared_norms(self) -> Tensor:
        """Return squared norms of the observed gradient, shape (R, T)."""
        return self._norms[self._victims]


def _inner(part: Part, target: GradientFactors | Tensor, victims: list[int]) -> Tensor:
    if isinstance(target, Tensor):
        outer = cast("Outer", part)
        return ((outer.deltas @ _rows_of(target, victims)) * outer.inputs).sum((1, 2))
    left, right = _rows_of(target.left_factor, victims), _rows_of(target.right_factor, victims)
    if isinstance(part, Outer):
        return (_product(part.deltas, left) * _product(part.inputs, right)).sum((1, 2))
    return ((part.flatten(2) @ right) * left).sum((1, 2))


def _product(first: Tensor, second: Tensor) -> Tensor:
    """Return one @ other; single rows element by element, because batched matrix products are slow for them."""
    if first.shape[1] == 1:
        return (first.mT * second).sum(1, keepdim=True)
    return first @ second


def _rows_of(values: Tensor, victims: list[int]) -> Tensor:
    """Return the rows of `values` for the victims; no copy if all rows have one victim or each row its own."""
    if len(values) == 1 or victims == list(range(len(values))):
        return values
    return values[victims]


def target_of(tensors: list[Tensor]) -> GradientFactors | Tensor:
    """Return the observed gradients of all victims: factors if all have low rank, else stacked, matrices flattened."""
    if tensors[0].ndim == 1:
        return torch.stack(tensors)
    stacked = torch.stack([tensor.flatten(1) for tensor in tensors])
    sides = stacked.shape[1:]
    for width in _SKETCHES:
        factors = _factorise(stacked, min(width, *sides))
        if factors is not None:
            return factors if factors.left_factor.shape[2] * sum(sides) < math.prod(sides) else stacked
    return stacked


def _factorise(matrices: Tensor, width: int) -> GradientFactors | None:
    """Return factors of matrices (V, out, in) up to rounding, of the least common rank; None if above `width`."""
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
    return GradientFactors((left @ turned).to(matrices), (right @ turned).to(matrices))


def is_single(part: Part) -> bool:
    """Return whether each row's gradient is a single outer product."""
    return isinstance(part, Outer) and part.inputs.shape[1] == 1
