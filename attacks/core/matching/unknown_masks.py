"""Dropout masks of a search's forward passes: given, drawn or optimised.

Masks of rows have shape (R, *site.shape); variables have the same shape, in the units of the relaxation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Self

import torch
from torch import Tensor

from attacks.core.matching.unknowns import MASKS, Block, SearchProgress
from fedsim.core.nets.masks import draw_masks, expected_mask
from fedsim.core.types import DropoutSite, Masks

Relaxation = Literal["box", "sigmoid", "straight-through"]
FirstMasks = Literal["bernoulli", "ones", "mean"]
_SURE = 4.0  # logit of a mask entry that is drawn as kept


@dataclass(frozen=True)
class GivenMasks(Block):
    """Known masks.

    Attributes:
        victim_masks: masks of each victim.
    """

    name: str = MASKS
    victim_masks: tuple[Masks, ...] = ()

    def forward_values(self, variables: Masks, progress: SearchProgress) -> Masks:
        """Return the masks of each row's victim."""
        return tuple(mask[list(progress.victims)] for mask in self._stack)

    @cached_property
    def _stack(self) -> Masks:
        return tuple(torch.stack(site) for site in zip(*self.victim_masks, strict=True))


@dataclass(frozen=True)
class DrawnMasks(Block):
    """Fresh masks in every iteration, drawn like the client's.

    Attributes:
        sites: dropout sites of the model.
        sets: number of mask sets per iteration.
    """

    name: str = MASKS
    sites: tuple[DropoutSite, ...] = ()
    sets: int = 1

    @property
    def draws(self) -> int:
        """Number of copies of each dummy input in the batch: one per mask set."""
        return self.sets

    def forward_values(self, variables: Masks, progress: SearchProgress) -> Masks:
        """Draw masks for each row from its victim's generator; sets are concatenated along the batch."""
        rows = [self._row(progress.generators[victim]) for victim in progress.victims]
        return tuple(torch.stack(site) for site in zip(*rows, strict=True))

    def _row(self, generator: torch.Generator) -> Masks:
        sets = [draw_masks(self.sites, generator, torch.empty(0)) for _ in range(self.sets)]
        return tuple(torch.cat(site) for site in zip(*sets, strict=True))


@dataclass(frozen=True)
class OptimisedMasks(Block):
    """Masks as unknowns: relaxed to [0, 1], pulled towards the dropout rate, known entries fixed (arXiv 2208.06163).

    Without sites nothing is searched.

    Attributes:
        sites: dropout sites of the model, with the attacker's rates.
        known_masks: by index of the site, masks (*site.shape) of each victim; NaN entries are unknown. `({},)`:
            nothing is known of any victim.
        begin: initialisation: drawn like the client's, all kept, or their expectation. Prefix masks start at their
            expectation unless all are kept.
        relaxation: box: the mask itself, clamped. sigmoid: its logit. straight-through: rounded in the forward pass
            only.
        weight: weight of the prior.
        start: given masks in [0, 1] as the initialisation.
    """

    name: str = MASKS
    sites: tuple[DropoutSite, ...] = ()
    known_masks: tuple[dict[int, Tensor], ...] = ({},)
    begin: FirstMasks = "bernoulli"
    relaxation: Relaxation = "box"
    weight: float = 0.0
    start: Masks | None = None

    def starting_at(self, values: Masks) -> Self:
        """Return the same block with given masks in [0, 1] as the start."""
        return replace(self, start=values)

    def first(self, generator: torch.Generator) -> Masks:
        """Return relaxed masks, in the order of the sites."""
        return self._variables(self.start if self.start is not None else self._draw(generator))

    def _draw(self, generator: torch.Generator) -> Masks:
        """Return first masks. Prefix masks start at their expectation: a drawn prefix carries no information."""
        if self.begin == "ones":
            return tuple(torch.ones(site.shape) for site in self.sites)
        expected = tuple(expected_mask(site) for site in self.sites)
        if self.begin == "mean":
            return expected
        random_masks = draw_masks(self.sites, generator, torch.empty(0))
        return tuple(e if site.odds else d for site, e, d in zip(self.sites, expected, random_masks, strict=True))

    def _variables(self, masks: Masks) -> Masks:
        if self.relaxation != "sigmoid":
            return tuple(mask.clone() for mask in masks)
        return tuple(torch.logit(mask, 1.0 / (1.0 + torch.e**_SURE)) for mask in masks)

    def forward_values(self, variables: Masks, progress: SearchProgress) -> Masks:
        """Return relaxed masks with the known entries inserted."""
        rows = list(progress.victims)
        soft = (self._soft(variable) for variable in variables)
        return tuple(
            mask
            if known is None
            else torch.where(known[rows].isnan().to(mask.device), mask, known[rows].nan_to_num().to(mask))
            for mask, known in zip(soft, self._fixed_masks, strict=True)
        )

    def prior(self, values: Masks) -> Tensor | float:
        """Return weight times the sum over sites of |(1 - mean of the mask) - p|; the mean runs over the batch.

        Completely known sites do not count.
        """
        if not self._free or self.weight == 0.0:
            return 0.0
        free = tuple(values[index] for index in self._free)
        return self.weight * mask_prior(free, [self.sites[index].rate for index in self._free])

    @torch.no_grad()
    def project(self, variables: Masks) -> None:
        """Clamp masks to [0, 1]; logits are unbounded."""
        if self.relaxation == "sigmoid":
            return
        for variable in variables:
            variable.clamp_(0.0, 1.0)

    def _soft(self, variable: Tensor) -> Tensor:
        if self.relaxation == "box":
            return variable
        if self.relaxation == "straight-through":
            return variable + ((variable > 0.5).to(variable) - variable).detach()  # noqa: PLR2004
        return torch.sigmoid(variable)

    @cached_property
    def _fixed_masks(self) -> list[Tensor | None]:
        """Known masks of every site, stacked over victims; None for sites without known entries."""
        return [self._stack_known_masks(index) for index in range(len(self.sites))]

    @cached_property
    def _free(self) -> list[int]:
        return [index for index, known in enumerate(self._fixed_masks) if known is None or bool(known.isnan().any())]

    def _stack_known_masks(self, index: int) -> Tensor | None:
        if not any(index in masks for masks in self.known_masks):
            return None
        unknown = torch.full(self.sites[index].shape, torch.nan)
        return torch.stack([masks.get(index, unknown) for masks in self.known_masks])


def mask_prior(masks: Masks, rates: Sequence[float]) -> Tensor:
    """Return the sum over sites of |(1 - mean of the mask) - p| for masks (R, ...), shape (R,) (arXiv 2208.06163)."""
    terms = [((1.0 - mask.flatten(1).mean(1)) - rate).abs() for mask, rate in zip(masks, rates, strict=True)]
    return torch.stack(terms).sum(0)
