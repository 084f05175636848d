"""Dropout Inversion Attack (DIA): the client's dropout masks are optimised together with the data.

Paper: Scheliga, Maeder, Seeland 2023, "Dropout Is NOT All You Need to Prevent Gradient Leakage", arXiv 2208.06163:
min over x, psi of 1 - cos(g(x, psi), g*) + l_tv TV(x) + l_m sum_l | (1 - mean psi_l) - p_l |, psi relaxed to [0, 1].
Threat model: honest-but-curious server, one gradient of an untrained model, labels given or inferred. Dropout hides
the image from attackers that ignore it, not from this one. Without dropout it falls back to IG.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from attacks._masks import read_masks
from attacks._matching import MatchingConfig, Search, match_gradients, one_gradient_only
from fedsim.hooks import Attack
from fedsim.masks import drawn_masks, injected_masks, without_dropout
from fedsim.registry import attack
from fedsim.types import DropoutSite, Masks, Observation, OnStep, Reconstruction, View


class DropoutInversionConfig(MatchingConfig):
    """Settings of DIA."""

    mask_weight: float = Field(default=1e-4, ge=0, description="weight l_m of the mask prior")
    first_masks: Literal["bernoulli", "ones", "mean"] = Field(
        default="bernoulli", description="start of the masks: drawn like the client's, all 1, or all 1 - p"
    )
    read_out: bool = Field(
        default=False, description="one example: fix the mask entries that zeros of the gradient give away"
    )
    assumed_rate: float = Field(default=0.25, gt=0, lt=1, description="dropout rate p to assume when it is not known")


@final
@attack("dropout-inversion", summary="optimises dropout masks jointly with the data (DIA)", paper="2208.06163")
class DropoutInversion(Attack[DropoutInversionConfig]):
    """Forward passes with the masks being optimised."""

    views: ClassVar[frozenset[View]] = frozenset({"single-update", "sum"})

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse updates of several steps."""
        return one_gradient_only(observation)

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Optimise inputs and masks together; one optimiser, one learning rate."""
        sites = self._sites(observation)
        if not sites:
            plain = Search(forward=lambda _masks: without_dropout(), training_mode=False)
            return match_gradients(observation, self.config, plain, generator, on_step)
        known = read_masks(observation) if self.config.read_out and sites[0].shape[0] == 1 else {}
        free = [index for index in range(len(sites)) if index not in known or bool(known[index].isnan().any())]

        def complete(masks: Masks) -> Masks:
            estimated = dict(zip(free, masks, strict=True))
            return tuple(_filled(known.get(i), estimated.get(i)) for i in range(len(sites)))

        def forward(masks: Masks) -> AbstractContextManager[None]:
            return injected_masks(sites, complete(masks))

        search = Search(
            forward=forward,
            first_masks=lambda g: self._first([sites[i] for i in free], g),
            prior=lambda masks: (
                self.config.mask_weight
                * mask_prior(tuple(complete(masks)[i] for i in free), [sites[i].rate for i in free])
            ),
        )
        found = match_gradients(observation, self.config, search, generator, on_step)
        return replace(found, masks=complete(found.masks or ()))

    def _sites(self, observation: Observation) -> tuple[DropoutSite, ...]:
        if "dropout-rates" in observation.threat.knows:
            return observation.sites
        return tuple(replace(site, rate=self.config.assumed_rate) for site in observation.sites)

    def _first(self, sites: list[DropoutSite], generator: torch.Generator) -> Masks:
        if self.config.first_masks == "bernoulli":
            return drawn_masks(sites, generator, torch.empty(0))
        return tuple(
            torch.full(site.shape, 1.0 if self.config.first_masks == "ones" else 1.0 - site.rate) for site in sites
        )


def _filled(known: Tensor | None, estimated: Tensor | None) -> Tensor:
    """Put estimates where a mask was not read off (NaN)."""
    if known is None or estimated is None:
        whole = estimated if known is None else known
        assert whole is not None
        return whole
    return torch.where(known.isnan(), estimated, known)


def mask_prior(masks: Masks, rates: list[float]) -> Tensor:
    """Return sum over sites of | (1 - mean of the mask) - p |; the mean runs over the batch as well."""
    terms = [((1.0 - mask.mean()) - rate).abs() for mask, rate in zip(masks, rates, strict=True)]
    return torch.stack(terms).sum() if terms else torch.zeros(())
