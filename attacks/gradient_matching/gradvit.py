"""gradvit: match the gradient of a vision transformer with a prior on the borders of its patches, in two stages.

Idea: every layer's gradient counts alike, and pixels on both sides of a border between patches should be alike, which
    puts patches into their places. Image statistics help only once the gradient is roughly matched, so they come later.
Equation: min over x of G sum over tensors of |g - g*| + a_p sum over borders of |x_in - x_out| + a_2 |x|^2 + a_tv TV(x)
    + I sum over layers of (|mean - running mean| + |variance - running variance|); first G = 1, I = 0, then 1/2, a_bn.
Assumes: honest-but-curious server, one gradient of a model that projects patches; labels granted or inferred.
Recovers: images, labels, and dropout masks of known rates; unknown rates are ignored.
Fails: batches whose images the gradient mixes, deep local minima. The paper's statistics are those of a public
    convolutional network; here they are the model's own, which few transformers have, and the record says when not.
Source: Hatamizadeh et al. 2022, arXiv 2203.11894.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.core.defense_facts import searched_sites
from attacks.core.matching.attack import MatchingAttack, MatchingConfig, best_row, has_failed
from attacks.core.matching.comparison import Gradients
from attacks.core.matching.descent import Descent, DescentSettings, Prior, RestartResult, ScheduleName, Search, descend
from attacks.core.matching.optimizers import Sign
from attacks.core.matching.regularizers import StatisticsDistance, running_statistics
from attacks.core.matching.unknown_masks import unknown_masks
from attacks.core.matching.unknowns import MASKS
from attacks.core.patches import Patches, patch_projection
from attacks.core.tolerances import TINY
from fedsim.core.hooks import Effort, Tables
from fedsim.core.registry import attack
from fedsim.core.types import Masks, Observation

_LATER = 0.5  # weight of the gradient in the second stage


class GradVitConfig(MatchingConfig):
    """Settings of GradViT. Each stage takes half of the iterations."""

    sign: Sign = Field(
        default="off", description="hard: only the sign of the inputs' gradient; soft: its tanh; off: as it is"
    )
    total_variation: float = Field(default=1e-4, ge=0, description="weight of the anisotropic total variation (means)")
    schedule: ScheduleName = Field(
        default="cosine", description="how the step shrinks in a stage; steps: tenfold after 3/8, 5/8 and 7/8"
    )
    threshold: float = Field(default=0.0, ge=0, description="stop when the objective is below this")
    patch_weight: float = Field(default=1e-4, ge=0, description="weight a_p of the borders between patches")
    norm_weight: float = Field(default=1e-6, ge=0, description="weight a_2 of the squared norm of the images")
    statistics_weight: float = Field(default=0.1, ge=0, description="weight a_bn of the distance to running statistics")
    mask_weight: float = Field(default=1e-4, ge=0, description="weight of the masks' distance to their rates")


@dataclass(frozen=True)
class _Staged(Search):
    """A search whose second stage has another prior."""

    later: Prior | None = None


@final
@attack("gradvit", summary="gradient matching of transformers, with a prior on patch borders", paper="2203.11894")
class GradVit(MatchingAttack[GradVitConfig]):
    """Descends twice: without, then with image statistics."""

    effort: ClassVar[Effort] = "reference"
    example: ClassVar[Tables] = {
        "model": {"name": "vit-small", "width": 16, "heads": 2, "blocks": 1, "hidden": 16, "dropout": 0.25}
    }

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse updates of several steps, and models without patches."""
        if patch_projection(observation) is None:
            return "no layer projects patches of the image, whose borders this attack compares; use gradinversion"
        return super().not_applicable(observation)

    def plan(self, observations: Sequence[Observation]) -> Search:
        """Optimise inputs, and the dropout masks of known rates."""
        config, first = self.config, observations[0]
        patches = patch_projection(first)
        assert patches is not None
        rows, columns = _starts(patches, first.spec.shape)
        statistics = None
        if config.statistics_weight and running_statistics(first.model):
            statistics = StatisticsDistance(first, first.sites)

        def prior(inputs: Tensor, masks: Masks, victims: Sequence[int]) -> Tensor:
            terms = self.smoothness(inputs, masks, victims) + config.norm_weight * inputs.square().flatten(1).sum(1)
            return terms + config.patch_weight * border_differences(inputs, rows, columns)

        def later(inputs: Tensor, masks: Masks, victims: Sequence[int]) -> Tensor:
            terms = prior(inputs, masks, victims)
            return terms if statistics is None else terms + config.statistics_weight * statistics(inputs, masks)

        sites = searched_sites(first)
        masks = unknown_masks(sites, len(observations), weight=config.mask_weight, rate=config.learning_rate)
        return _Staged(masks, self.first(observations), prior, _norms, later=later)

    def descent_settings(self) -> DescentSettings:
        """Return how rows descend in one stage."""
        return super().descent_settings()._replace(iterations=max(1, self.config.max_iterations // 2))

    def at_once(self, observation: Observation) -> int:
        """Return one: the second stage begins where the best row of the first one ended."""
        return 1

    def run_descent(self, descent: Descent) -> list[RestartResult]:
        """Descend from every start, then go on from the best end with all priors."""
        rows, search = descend(descent), descent.search
        if has_failed(rows) or not isinstance(search, _Staged) or search.later is None:
            return rows
        best = best_row(rows)
        begin = search.unknowns.starting_at({MASKS: best.masks, **best.others})
        second = replace(
            search,
            unknowns=begin,
            first=lambda _victim, _generator: best.inputs,
            prior=search.later,
            distance=lambda gradients: _LATER * _norms(gradients),
        )
        done = descent.settings.iterations
        later = descent.victims.in_part(restarts=self.config.restarts, done=done, iterations=2 * done)
        [last] = descend(replace(descent, search=second, victims=later, restarts=1))
        for row in rows:
            row.objective = math.inf  # its iterations count, but it cannot win
        last.start = self.config.restarts
        return [*rows, last]

    def remarks(self, observation: Observation) -> tuple[str, ...]:
        """Say when there are no statistics to match."""
        if running_statistics(observation.model):
            return ()
        return ("the model keeps no running statistics: that prior is left out",)


def border_differences(inputs: Tensor, rows: Sequence[int], columns: Sequence[int]) -> Tensor:
    """Return the norms of the differences across the borders of patches, added up, shape (R,).

    Args:
        inputs: shape (R, B, C, H, W).
        rows: first rows of patches, without the upper edge of the image.
        columns: first columns of patches, without the left edge of the image.
    """
    down = [inputs[..., row, :] - inputs[..., row - 1, :] for row in rows]
    across = [inputs[..., column] - inputs[..., column - 1] for column in columns]
    norms = [_norm(difference.flatten(1).square().sum(1)) for difference in (*down, *across)]
    return torch.stack(norms).sum(0) if norms else inputs.new_zeros(len(inputs))


def _starts(patches: Patches, shape: tuple[int, ...]) -> tuple[list[int], list[int]]:
    height, width = shape[-2:]
    first = patches.pixels.amin(1) % (height * width)
    rows, columns = (first // width).unique().tolist(), (first % width).unique().tolist()
    return [row for row in rows if row], [column for column in columns if column]


def _norms(gradients: Gradients) -> Tensor:
    """Return the distances of all tensors to the observed ones, added up, shape (R,)."""
    return _norm(gradients.difference().clamp_min(0.0)).sum(1)


def _norm(squares: Tensor) -> Tensor:
    """Return roots whose derivative stays finite at zero."""
    return squares.clamp_min(TINY).sqrt()
