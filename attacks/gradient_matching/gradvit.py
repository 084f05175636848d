"""gradvit: match the gradient of a vision transformer with a prior on the borders of its patches, in two stages.

The search descends in two stages of half of the iterations each. The weights belong to `priors`, and a_bn to
`later_priors`, which join in the second stage. The paper's text could not be read again: the equations are from memory,
and the factors of the two stages are the least certain. The paper tunes weights for ImageNet and runs 120,000
iterations; the defaults here are for small images. A descent does not show whether the image is right; exact attacks on
transformers do.

Idea: every layer's gradient has equal weight. Pixels on both sides of a patch border should be similar, which puts
    patches into their positions. Image statistics help only once the gradient is roughly matched, so they come later.
Equation: min over x of G sum over tensors of |g - g*| + a_p sum over borders of |x_in - x_out| + a_2 |x|^2 + a_tv TV(x)
    + I sum over layers of (|mean - running mean| + |variance - running variance|); first G = 1, I = 0, then 1/2, a_bn.
Assumes: honest-but-curious server, a single gradient of a model that projects patches; labels granted or inferred.
Recovers: images, labels, and dropout masks of known rates; unknown rates are ignored.
Fails: batches whose images the gradient mixes, deep local minima. The paper's statistics are those of a public
    convolutional network; here they are the model's own, which few transformers have, and the record says when not.
Source: Hatamizadeh et al. 2022, arXiv 2203.11894.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar, final

from attacks.core.matching.attack import (
    MaskSearchAttack,
    MaskSearchConfig,
    best_row,
    has_failed,
)
from attacks.core.matching.descent import Descent, DescentSettings, RestartResult, ScheduleName, descend
from attacks.core.matching.optimizers import Sign
from attacks.core.matching.terms import DistanceChoice, PriorChoice, distance_setting, left_out, prior_settings, sum_of
from attacks.core.matching.unknowns import MASKS
from attacks.core.patches import patch_projection
from fedsim.core.hooks import Tables
from fedsim.core.registry import attack
from fedsim.core.types import Observation, change_default

_LATER = 0.5  # weight of the gradient in the second stage


class GradVitConfig(MaskSearchConfig):
    """Settings of GradViT. Each stage takes half of the iterations."""

    sign: Sign = change_default(MaskSearchConfig, sign="off")
    distance: DistanceChoice = distance_setting("norms")
    priors: tuple[PriorChoice, ...] = prior_settings(
        {"total-variation": 1e-4, "squared-norm": 1e-6, "patch-borders": 1e-4}
    )
    later_priors: tuple[PriorChoice, ...] = prior_settings({"batch-statistics": 0.1}, ", in the second stage alone")
    schedule: ScheduleName = change_default(MaskSearchConfig, schedule="cosine")
    threshold: float = change_default(MaskSearchConfig, threshold=0.0)


@final
@attack(
    "gradvit",
    summary="gradient matching of transformers, with a prior on patch borders",
    tier="baseline",
    paper="2203.11894",
    fidelity="variant",
    deviates="image statistics are the model's own; dropout masks are unknowns too",
    paper_steps=(
        ("two stages of the objective", "GradVit.run_descent"),
        ("prior on patch borders", "attacks.core.matching.priors.patch_borders.border_differences"),
        ("image statistics in the second stage", "GradVit.run_descent"),
        ("statistics of a public convolutional network", ""),
    ),
)
class GradVit(MaskSearchAttack[GradVitConfig]):
    """Descends twice: without, then with image statistics."""

    example: ClassVar[Tables] = {
        "model": {"name": "vit-small", "width": 16, "heads": 2, "blocks": 1, "hidden": 16, "dropout": 0.25}
    }

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse updates of several steps, and models without patches."""
        if patch_projection(observation) is None:
            return "no layer projects patches of the image, and this attack compares patch borders; use gradinversion"
        return super().not_applicable(observation)

    def descent_settings(self) -> DescentSettings:
        """Return the settings of one stage."""
        return super().descent_settings()._replace(iterations=max(1, self.config.max_iterations // 2))

    def max_victims(self, observation: Observation) -> int:
        """Return 1: the second stage starts from the best row of the first."""
        return 1

    def run_descent(self, descent: Descent) -> list[RestartResult]:
        """Descend from every start, then continue from the best result with all priors."""
        rows, search = descend(descent), descent.search
        if has_failed(rows):
            return rows
        best, later_prior = best_row(rows), sum_of(self.config.later_priors, descent.victims)
        second = replace(
            search,
            unknowns=search.unknowns.starting_at({MASKS: best.masks, **best.extra_values}),
            first=lambda _victim, _generator: best.inputs,
            prior=lambda inputs, masks, victims: (
                search.prior(inputs, masks, victims) + later_prior(inputs, masks, victims)
            ),
            distance=lambda gradients: _LATER * search.distance(gradients),
        )
        done = descent.settings.iterations
        part = descent.victims.as_part(restarts=self.config.restarts, done=done, iterations=2 * done)
        [last] = descend(replace(descent, search=second, victims=part, restarts=1))
        for row in rows:
            row.objective = math.inf  # its iterations count, but it cannot win
        last.start = self.config.restarts
        return [*rows, last]

    def remarks(self, observation: Observation) -> tuple[str, ...]:
        """List the priors of both stages that do not apply."""
        return left_out((*self.config.priors, *self.config.later_priors), observation)
