"""What a search optimises beside the inputs, as named blocks: dropout masks, weights, boxes, positions, noise draws.

A block says where its variables start, what a forward pass makes of them, which of their values are likely, which range
they have, and how far Adam steps. Dropout masks are the block `MASKS`; their kinds are in `unknown_masks`.
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
Values = Mapping[str, tuple[Tensor, ...]]
"""Tensors by the name of their block, with a first dimension of rows (R, ...) where many rows are searched at once."""

NOTHING: Values = MappingProxyType({})


class SearchProgress(NamedTuple):
    """Where a search stands when a forward pass asks for values.

    Attributes:
        victims: index of the victim of each row.
        generators: of the victims.
        done: share of the iterations that have passed.
    """

    victims: Sequence[int] = (0,)
    generators: Sequence[torch.Generator] = ()
    done: float = 0.0


@dataclass(frozen=True)
class Block:
    """Unknowns of one kind. This one has no variables, and leaves what a forward pass gets to its kinds.

    Attributes:
        name: under which a forward pass finds its values.
        rate: Adam's step, in the units of the variables; 0 keeps them as they start.
    """

    name: str
    rate: float = 0.1

    @property
    def draws(self) -> int:
        """How many sets of values the gradient is averaged over: each dummy stands in the batch so many times."""
        return 1

    def first(self, generator: torch.Generator) -> Masks:
        """Return start values of one row's variables, without the dimension of rows; empty when there are none."""
        return ()

    def forward_values(self, variables: Masks, progress: SearchProgress) -> Masks:
        """Return what a forward pass gets, differentiable in the variables (R, ...)."""
        return variables

    def prior(self, values: Masks) -> Tensor | float:
        """Return a regulariser of the values of a forward pass, shape (R,), or 0."""
        return 0.0

    def project(self, variables: Masks) -> None:
        """Put variables back into their range, in place."""

    def starting_at(self, values: Masks) -> Self:
        """Return the same with given values as its start; as it is where nothing is searched."""
        return self


@dataclass(frozen=True)
class Bounded(Block):
    """Numbers in [low, high] that a forward pass gets as they are.

    Attributes:
        start: of one row.
    """

    start: Masks = ()
    low: float = 0.0
    high: float = 1.0

    def first(self, generator: torch.Generator) -> Masks:
        """Return the start."""
        return self.start

    @torch.no_grad()
    def project(self, variables: Masks) -> None:
        """Clamp."""
        for variable in variables:
            variable.clamp_(self.low, self.high)

    def starting_at(self, values: Masks) -> Self:
        """Return the same from there."""
        return replace(self, start=values)


@dataclass(frozen=True)
class UnknownWeight(Bounded):
    """One weight in [0, 1], shape (1,), that starts anywhere."""

    def first(self, generator: torch.Generator) -> Masks:
        """Return a uniform draw."""
        return self.start or (torch.rand(1, generator=generator),)


@dataclass(frozen=True)
class Logits(Block):
    """Logits without a range, over a temperature that falls from 1.

    Attributes:
        shape: of one row.
        coldest: temperature at the end of the search; 1 keeps them as they are.
        start: of one row; drawn from N(0, 1) when empty.
    """

    shape: tuple[int, ...] = ()
    coldest: float = 1.0
    start: Masks = ()

    def first(self, generator: torch.Generator) -> Masks:
        """Return the start."""
        return self.start or (torch.randn(self.shape, generator=generator),)

    def forward_values(self, variables: Masks, progress: SearchProgress) -> Masks:
        """Return them as hard as they are by now."""
        if self.coldest == 1.0:
            return variables
        return tuple(variable / self.coldest**progress.done for variable in variables)

    def starting_at(self, values: Masks) -> Self:
        """Return the same from there."""
        return replace(self, start=values)


@dataclass(frozen=True)
class Gaussian(Block):
    """Draws of N(0, 1) under their own law: the prior is weight times the sum over tensors of mean(e^2) / 2.

    Attributes:
        shapes: of one row.
        weight: of the prior.
        is_zero: whether they start at 0, their expectation, and not at a draw.
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
    """All that a search optimises beside the inputs, one block after the other."""

    blocks: tuple[Block, ...] = ()

    @property
    def draws(self) -> int:
        """How many times each dummy stands in the batch."""
        return max((block.draws for block in self.blocks), default=1)

    def followed_by(self, *blocks: Block) -> Unknowns:
        """Return these and further blocks."""
        return Unknowns((*self.blocks, *blocks))

    def starting_at(self, values: Values) -> Unknowns:
        """Return the same with given values as the start of the blocks that are named."""
        return Unknowns(tuple(b.starting_at(values[b.name]) if b.name in values else b for b in self.blocks))

    def at_rate(self, rate: float) -> Unknowns:
        """Return the same with another step of every block."""
        return Unknowns(tuple(replace(block, rate=rate) for block in self.blocks))

    def rates(self) -> dict[str, float]:
        """Return the step of every block."""
        return {block.name: block.rate for block in self.blocks}

    def first(self, generator: torch.Generator) -> dict[str, Masks]:
        """Return start values of the blocks that have variables."""
        firsts = {block.name: block.first(generator) for block in self.blocks}
        return {name: variables for name, variables in firsts.items() if variables}

    def forward_values(self, variables: Values, progress: SearchProgress) -> dict[str, Masks]:
        """Return what a forward pass gets of every block."""
        return {block.name: block.forward_values(variables.get(block.name, ()), progress) for block in self.blocks}

    def reported_values(self, variables: Values, progress: SearchProgress) -> dict[str, Masks]:
        """Return what a forward pass gets of the blocks that have variables."""
        by_name = {block.name: block for block in self.blocks}
        return {name: by_name[name].forward_values(values, progress) for name, values in variables.items()}

    def prior(self, values: Values) -> Tensor | float:
        """Return the sum of all regularisers, shape (R,), or 0."""
        total: Tensor | float = 0.0
        for block in self.blocks:
            total = total + block.prior(values[block.name])
        return total

    def project(self, variables: Values) -> None:
        """Put the variables of every block back into their range, in place."""
        for block in self.blocks:
            block.project(variables.get(block.name, ()))


def flat(values: Values) -> list[Tensor]:
    """Return the tensors of all blocks, one after the other."""
    return [tensor for tensors in values.values() for tensor in tensors]


def each(values: Values, change: Callable[[Tensor], Tensor]) -> dict[str, Masks]:
    """Return the values after a change of every tensor."""
    return {name: tuple(change(tensor) for tensor in tensors) for name, tensors in values.items()}


def of_row(values: Values, row: int) -> dict[str, Masks]:
    """Return the values of one row."""
    return each(values, lambda tensor: tensor[row])


def without_masks(values: Values) -> dict[str, Masks]:
    """Return the values of all blocks but the dropout masks."""
    return {name: tensors for name, tensors in values.items() if name != MASKS}
