"""Unknowns of a search besides the inputs, as named blocks: masks, weights, boxes, positions, noise draws.

A block defines the initialisation of its variables, their values in a forward pass, a prior, a range, and Adam's step
size. Dropout masks are the block `MASKS`; their kinds are in `unknown_masks`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple, Self

import torch
from torch import Tensor

from fedsim.core.types import Masks

MASKS = "masks"
LABELS = "labels"
"""Name of the block of label logits (B, K), if labels are searched."""

Values = Mapping[str, tuple[Tensor, ...]]
"""Tensors by the name of their block; if many rows are searched at once, the first dimension is the row (R, ...)."""

NOTHING: Values = MappingProxyType({})


class SearchProgress(NamedTuple):
    """Progress of a search at a forward pass.

    Attributes:
        victims: index of the victim of each row.
        generators: random sources of the victims.
        completed_share: share of completed iterations.
    """

    victims: Sequence[int] = (0,)
    generators: Sequence[torch.Generator] = ()
    completed_share: float = 0.0


@dataclass(frozen=True)
class Block:
    """Unknowns of a common kind. The base class has no variables; subclasses define the values of a forward pass.

    Attributes:
        name: key of the block's values in a forward pass.
        rate: Adam's step, in the units of the variables; 0 keeps them at their start.
    """

    name: str
    rate: float = 0.1

    @property
    def draws(self) -> int:
        """Number of value sets that the gradient averages: the batch holds as many copies of each dummy input."""
        return 1

    def first(self, generator: torch.Generator) -> Masks:
        """Return start values of a row's variables, without the row dimension; empty without variables."""
        return ()

    def forward_values(self, variables: Masks, progress: SearchProgress) -> Masks:
        """Return the values for a forward pass, differentiable in the variables (R, ...)."""
        return variables

    def prior(self, values: Masks) -> Tensor | float:
        """Return a regulariser of the values of a forward pass, shape (R,), or 0."""
        return 0.0

    def project(self, variables: Masks) -> None:
        """Project variables to their range, in place."""

    def starting_at(self, values: Masks) -> Self:
        """Return the same block with given start values; unchanged if it has no variables."""
        return self


@dataclass(frozen=True)
class Bounded(Block):
    """Numbers in [low, high] that a forward pass uses unchanged.

    Attributes:
        start: start values of one row.
    """

    start: Masks = ()
    low: float = 0.0
    high: float = 1.0

    def first(self, generator: torch.Generator) -> Masks:
        """Return the start."""
        return self.start

    @torch.no_grad()
    def project(self, variables: Masks) -> None:
        """Clamp the variables, in place."""
        for variable in variables:
            variable.clamp_(self.low, self.high)

    def starting_at(self, values: Masks) -> Self:
        """Return the same block with these start values."""
        return replace(self, start=values)


@dataclass(frozen=True)
class UnknownWeight(Bounded):
    """A weight in [0, 1], shape (1,), with a uniform random start."""

    def first(self, generator: torch.Generator) -> Masks:
        """Return the start values, or a uniform draw."""
        return self.start or (torch.rand(1, generator=generator),)


@dataclass(frozen=True)
class Logits(Block):
    """Logits without a range, divided by a temperature that falls from 1.

    Attributes:
        shape: shape of one row.
        coldest: temperature at the end of the search; 1 keeps the logits unchanged.
        start: start values of one row; drawn from N(0, 1) if empty.
    """

    shape: tuple[int, ...] = ()
    coldest: float = 1.0
    start: Masks = ()

    def first(self, generator: torch.Generator) -> Masks:
        """Return the start values, or a normal draw."""
        return self.start or (torch.randn(self.shape, generator=generator),)

    def forward_values(self, variables: Masks, progress: SearchProgress) -> Masks:
        """Return the logits divided by the current temperature."""
        if self.coldest == 1.0:
            return variables
        return tuple(variable / self.coldest**progress.completed_share for variable in variables)

    def starting_at(self, values: Masks) -> Self:
        """Return the same block with these start values."""
        return replace(self, start=values)


@dataclass(frozen=True)
class Gaussian(Block):
    """Draws of N(0, 1) with their negative log density as prior: weight times the sum over tensors of mean(e^2) / 2.

    Attributes:
        shapes: shapes of one row's tensors.
        weight: weight of the prior.
        is_zero: whether they start at 0, their expectation, instead of a draw.
    """

    shapes: tuple[tuple[int, ...], ...] = ()
    weight: float = 0.0
    is_zero: bool = False

    def first(self, generator: torch.Generator) -> Masks:
        """Return draws, or zeros."""
        noises = (torch.randn(shape, generator=generator) for shape in self.shapes)
        return tuple(noise * (not self.is_zero) for noise in noises)

    def prior(self, values: Masks) -> Tensor | float:
        """Return -log p up to a constant, weighted, shape (R,)."""
        squares = torch.stack([noise.square().flatten(1).mean(1) for noise in values])
        return 0.5 * self.weight * squares.sum(0)


@dataclass(frozen=True)
class Unknowns:
    """All unknowns of a search besides the inputs, as a sequence of blocks."""

    blocks: tuple[Block, ...] = ()

    @property
    def draws(self) -> int:
        """Number of copies of each dummy input in the batch."""
        return max((block.draws for block in self.blocks), default=1)

    def followed_by(self, *blocks: Block) -> Unknowns:
        """Return these and further blocks."""
        return Unknowns((*self.blocks, *blocks))

    def starting_at(self, values: Values) -> Unknowns:
        """Return the same unknowns, with given start values for the named blocks."""
        return Unknowns(tuple(b.starting_at(values[b.name]) if b.name in values else b for b in self.blocks))

    def with_rate(self, rate: float) -> Unknowns:
        """Return the same unknowns, with another step size for every block."""
        return Unknowns(tuple(replace(block, rate=rate) for block in self.blocks))

    def rates(self) -> dict[str, float]:
        """Return the step size of every block."""
        return {block.name: block.rate for block in self.blocks}

    def first(self, generator: torch.Generator) -> dict[str, Masks]:
        """Return start values of the blocks that have variables."""
        firsts = {block.name: block.first(generator) for block in self.blocks}
        return {name: variables for name, variables in firsts.items() if variables}

    def forward_values(self, variables: Values, progress: SearchProgress) -> dict[str, Masks]:
        """Return every block's values for a forward pass."""
        return {block.name: block.forward_values(variables.get(block.name, ()), progress) for block in self.blocks}

    def reported_values(self, variables: Values, progress: SearchProgress) -> dict[str, Masks]:
        """Return the forward-pass values of the blocks that have variables."""
        by_name = {block.name: block for block in self.blocks}
        return {name: by_name[name].forward_values(values, progress) for name, values in variables.items()}

    def prior(self, values: Values) -> Tensor | float:
        """Return the sum of all regularisers, shape (R,), or 0."""
        total: Tensor | float = 0.0
        for block in self.blocks:
            total = total + block.prior(values[block.name])
        return total

    def project(self, variables: Values) -> None:
        """Project the variables of every block to their range, in place."""
        for block in self.blocks:
            block.project(variables.get(block.name, ()))


def flat(values: Values) -> list[Tensor]:
    """Return the tensors of all blocks, one after the other."""
    return [tensor for tensors in values.values() for tensor in tensors]


def map_tensors(values: Values, change: Callable[[Tensor], Tensor]) -> dict[str, Masks]:
    """Return the values after a change of every tensor."""
    return {name: tuple(change(tensor) for tensor in tensors) for name, tensors in values.items()}


def select_row(values: Values, row: int) -> dict[str, Masks]:
    """Return the values of a row."""
    return map_tensors(values, lambda tensor: tensor[row])


def without_masks(values: Values) -> dict[str, Masks]:
    """Return the values of all blocks but the dropout masks."""
    return {name: tensors for name, tensors in values.items() if name != MASKS}
