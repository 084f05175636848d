"""Which dropout masks a search uses in its forward passes, and which of them it optimises.

Masks of rows have shape (R, *site.shape). So have the variables, which hold what a relaxation optimises.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from fedsim.core.masks import drawn_masks, expected_mask
from fedsim.core.types import DropoutSite, Masks

Relaxation = Literal["box", "sigmoid", "straight-through"]
FirstMasks = Literal["bernoulli", "ones", "mean"]
_SURE = 4.0  # logit of an entry that is drawn as kept
_LEAST_TEMPERATURE = 0.1


class Masking(Protocol):
    """Masks of a search.

    Attributes:
        draws: number of sets of masks whose gradients are averaged; the batch repeats each dummy that often.
    """

    draws: int

    def first(self, generator: torch.Generator) -> Masks:
        """Return start values of one row's variables, without the row dimension; empty when there are none."""
        ...

    def masks(
        self, variables: Masks, victims: Sequence[int], generators: Sequence[torch.Generator], done: float
    ) -> Masks:
        """Return the masks of a forward pass, differentiable in the variables.

        Args:
            variables: of all rows.
            victims: index of the victim of each row.
            generators: of the victims.
            done: share of the iterations that are done.
        """
        ...

    def prior(self, masks: Masks) -> Tensor | float:
        """Return a regulariser for the masks of a forward pass, shape (R,), or 0."""
        ...

    def project(self, variables: Masks) -> None:
        """Put variables back into their range, in place."""


class NoMasks:
    """Forward passes without dropout."""

    draws = 1

    def first(self, generator: torch.Generator) -> Masks:
        """Return no variables."""
        return ()

    def masks(
        self, variables: Masks, victims: Sequence[int], generators: Sequence[torch.Generator], done: float
    ) -> Masks:
        """Return no masks."""
        return ()

    def prior(self, masks: Masks) -> Tensor | float:
        """Return 0."""
        return 0.0

    def project(self, variables: Masks) -> None:
        """Change nothing."""


class GivenMasks(NoMasks):
    """Masks that are known."""

    def __init__(self, masks: Sequence[Masks]) -> None:
        """Take each victim's masks."""
        self._masks = tuple(torch.stack(site) for site in zip(*masks, strict=True))

    def masks(
        self, variables: Masks, victims: Sequence[int], generators: Sequence[torch.Generator], done: float
    ) -> Masks:
        """Return, for each row, the masks of its victim."""
        return tuple(mask[list(victims)] for mask in self._masks)


class DrawnMasks(NoMasks):
    """Fresh masks in every iteration."""

    def __init__(self, sites: Sequence[DropoutSite], draws: int, like: Tensor) -> None:
        """Draw `draws` sets in each iteration, as the client does."""
        self._sites = sites
        self._like = like
        self.draws = draws

    def masks(
        self, variables: Masks, victims: Sequence[int], generators: Sequence[torch.Generator], done: float
    ) -> Masks:
        """Draw for each row from its victim's generator; the sets are concatenated along the batch."""
        rows = [self._row(generators[victim]) for victim in victims]
        return tuple(torch.stack(site) for site in zip(*rows, strict=True))

    def _row(self, generator: torch.Generator) -> Masks:
        sets = [drawn_masks(self._sites, generator, self._like) for _ in range(self.draws)]
        return tuple(torch.cat(site) for site in zip(*sets, strict=True))


class OptimisedMasks:
    """Masks as unknowns: relaxed to [0, 1], pulled towards the dropout rate, with known entries fixed."""

    draws: int = 1

    def __init__(
        self,
        sites: Sequence[DropoutSite],
        known: Sequence[dict[int, Tensor]],
        *,
        first: FirstMasks,
        relaxation: Relaxation,
        annealed: bool,
        weight: float,
    ) -> None:
        """Keep the known entries of each victim's masks; NaN marks unknown ones.

        Args:
            sites: where the model drops out, with the attacker's rates.
            known: masks (*site.shape) of each victim, by index of the site.
            first: start of the masks: drawn as the client's, all kept, or their expectation. Prefixes start from
                their expectation, unless all are kept.
            relaxation: box: the mask itself, clamped. sigmoid: its logit. straight-through: rounded forward only.
            annealed: sigmoid: the temperature falls from 1 to 0.1.
            weight: of the prior.
        """
        self._sites = sites
        self._first = first
        self._relaxation = relaxation
        self._annealed = annealed
        self._weight = weight
        self._start: Masks | None = None
        self._known = [self._stacked(index, known) for index in range(len(sites))]
        self._free = [index for index, masks in enumerate(self._known) if masks is None or bool(masks.isnan().any())]

    def starting_at(self, masks: Masks) -> OptimisedMasks:
        """Return the same, but with given masks in [0, 1] as the start."""
        other = copy.copy(self)
        other._start = masks
        return other

    def first(self, generator: torch.Generator) -> Masks:
        """Return start values of the relaxed masks, in the order of the sites."""
        return self._variables(self._start if self._start is not None else self._drawn(generator))

    def _drawn(self, generator: torch.Generator) -> Masks:
        """Return start masks. Prefixes start from their expectation: a drawn one tells nothing about the client's."""
        if self._first == "ones":
            return tuple(torch.ones(site.shape) for site in self._sites)
        expected = tuple(expected_mask(site) for site in self._sites)
        if self._first == "mean":
            return expected
        drawn = drawn_masks(self._sites, generator, torch.empty(0))
        return tuple(e if site.odds else d for site, e, d in zip(self._sites, expected, drawn, strict=True))

    def _variables(self, masks: Masks) -> Masks:
        if self._relaxation != "sigmoid":
            return tuple(mask.clone() for mask in masks)
        return tuple(torch.logit(mask, 1.0 / (1.0 + torch.e**_SURE)) for mask in masks)

    def masks(
        self, variables: Masks, victims: Sequence[int], generators: Sequence[torch.Generator], done: float
    ) -> Masks:
        """Return relaxed masks with the known entries in place."""
        relaxed = (self._relaxed(variable, done) for variable in variables)
        return tuple(
            mask
            if known is None
            else torch.where(known[rows].isnan().to(mask.device), mask, known[rows].nan_to_num().to(mask))
            for mask, known, rows in zip(relaxed, self._known, [list(victims)] * len(variables), strict=True)
        )

    def prior(self, masks: Masks) -> Tensor | float:
        """Return weight times the sum over sites of |(1 - mean of the mask) - p|; the mean runs over the batch.

        Sites whose masks are known in full do not count.
        """
        if not self._free or self._weight == 0.0:
            return 0.0
        free = tuple(masks[index] for index in self._free)
        return self._weight * mask_prior(free, [self._sites[index].rate for index in self._free])

    @torch.no_grad()
    def project(self, variables: Masks) -> None:
        """Keep masks in [0, 1]; logits need no range."""
        if self._relaxation == "sigmoid":
            return
        for variable in variables:
            variable.clamp_(0.0, 1.0)

    def _relaxed(self, variable: Tensor, done: float) -> Tensor:
        if self._relaxation == "box":
            return variable
        if self._relaxation == "straight-through":
            return variable + ((variable > 0.5).to(variable) - variable).detach()  # noqa: PLR2004
        temperature = _LEAST_TEMPERATURE**done if self._annealed else 1.0
        return torch.sigmoid(variable / temperature)

    def _stacked(self, index: int, known: Sequence[dict[int, Tensor]]) -> Tensor | None:
        if not any(index in masks for masks in known):
            return None
        unknown = torch.full(self._sites[index].shape, torch.nan)
        return torch.stack([masks.get(index, unknown) for masks in known])


def unknown_masks(sites: Sequence[DropoutSite], victims: int, weight: float) -> Masking:
    """Return masks that are searched as in the Dropout Inversion Attack, or none when there are no sites."""
    if not sites:
        return NoMasks()
    nothing: list[dict[int, Tensor]] = [{} for _ in range(victims)]
    return OptimisedMasks(sites, nothing, first="bernoulli", relaxation="box", annealed=False, weight=weight)


def mask_prior(masks: Masks, rates: Sequence[float]) -> Tensor:
    """Return sum over sites of |(1 - mean of the mask) - p| for masks (R, ...), shape (R,) (arXiv 2208.06163)."""
    terms = [((1.0 - mask.flatten(1).mean(1)) - rate).abs() for mask, rate in zip(masks, rates, strict=True)]
    return torch.stack(terms).sum(0)
