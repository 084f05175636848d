"""gradinversion: search images from several seeds at once, with image priors and a pull to the seeds' mean.

Idea: seeds agree on what the gradient determines. Running statistics of batch normalisation tell what activations look
    like, so such layers help this attack; without them that term is left out, and the record says so.
Equation: min over x of a_g |g - g*|^2 + a_tv TV(x) + a_l2 |x|^2 + a_bn sum over layers of (|mean - running mean| +
    |variance - running variance|) + a_grp |x - mean over seeds|^2. All terms count, so it is not zero at the truth.
Assumes: honest-but-curious server, one gradient; granted labels are used, others inferred, no class twice. Seeds are
    registered by assigning images of one label to each other, not by optical flow as in the paper.
Recovers: images, labels, and dropout masks of known rates, for each seed its own; unknown rates are ignored.
Fails: classes that repeat in a batch where labels are not granted.
Source: Yin et al. 2021, arXiv 2104.07586.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

from pydantic import Field
from torch import Tensor

from attacks.core.defense_facts import searched_sites
from attacks.core.labels import LabelRule, labels_of
from attacks.core.matching.attack import MatchingAttack, MatchingConfig
from attacks.core.matching.comparison import Gradients, squared
from attacks.core.matching.descent import DescentSettings, ScheduleName, Search
from attacks.core.matching.optimizers import Sign
from attacks.core.matching.regularizers import StatisticsDistance, group_distance, running_statistics
from attacks.core.matching.unknown_masks import unknown_masks
from fedsim.core.registry import attack
from fedsim.core.types import Masks, Observation

_FEWEST_SEEDS = 2


class GradInversionConfig(MatchingConfig):
    """Settings of GradInversion. Seeds are `restarts`."""

    sign: Sign = Field(
        default="off", description="hard: only the sign of the inputs' gradient; soft: its tanh; off: as it is"
    )
    total_variation: float = Field(default=1e-4, ge=0, description="weight of the anisotropic total variation (means)")
    schedule: ScheduleName = Field(
        default="cosine", description="how the step shrinks; steps: tenfold after 3/8, 5/8 and 7/8"
    )
    warm_up: int = Field(default=50, ge=0, description="for cosine: iterations until the full step")
    threshold: float = Field(default=0.0, ge=0, description="stop when the objective is below this")
    label_rule: LabelRule = Field(
        default="distinct",
        description="how unknown labels of several examples are inferred: counting and impact allow repeated "
        "classes, distinct and negative do not",
    )
    restarts: int = Field(
        default=8, ge=1, description="seeds, run at once and pulled together; the lowest objective wins"
    )
    gradient_weight: float = Field(
        default=1.0,
        gt=0,
        description="weight a_g of the squared distance; 1e-4 in the paper, for ResNet-50 on ImageNet",
    )
    norm_weight: float = Field(default=1e-6, ge=0, description="weight a_l2 of the squared norm of the images")
    statistics_weight: float = Field(default=0.1, ge=0, description="weight a_bn of the distance to running statistics")
    group_weight: float = Field(default=0.01, ge=0, description="weight a_grp of the distance to the mean of the seeds")
    langevin: float = Field(
        default=0.01, ge=0, description="standard deviation of the noise on the gradient, in steps; 0.2 in the paper"
    )
    mask_weight: float = Field(default=1e-4, ge=0, description="weight of the masks' distance to their rates")


@final
@attack(
    "gradinversion",
    summary="squared distance, image priors and group consistency",
    paper="2104.07586",
    aliases=("see-through-gradients",),
)
class GradInversion(MatchingAttack[GradInversionConfig]):
    """Runs the seeds as rows of one computation, so that each is compared with the others."""

    def plan(self, observations: Sequence[Observation]) -> Search:
        """Optimise inputs, and the dropout masks of known rates."""
        config, first = self.config, observations[0]
        labels = [labels_of(observation, config.label_rule) for observation in observations]
        statistics = self._statistics(first)

        def prior(inputs: Tensor, masks: Masks, victims: Sequence[int]) -> Tensor:
            terms = self.smoothness(inputs, masks, victims) + config.norm_weight * inputs.square().flatten(1).sum(1)
            if config.restarts > 1:
                terms = terms + config.group_weight * group_distance(inputs, victims, labels)
            return terms if statistics is None else terms + config.statistics_weight * statistics(inputs, masks)

        sites, victims = searched_sites(first), len(observations)
        masks = unknown_masks(sites, victims, weight=config.mask_weight, rate=config.learning_rate)
        return Search(masks, self.first(observations), prior, self._distance)

    @classmethod
    def settings_for_budget(cls, gradients: int) -> dict[str, Any]:
        """Return two seeds, and half as many iterations each."""
        return {"max_iterations": max(1, gradients // _FEWEST_SEEDS), "restarts": _FEWEST_SEEDS, "warm_up": 0}

    def descent_settings(self) -> DescentSettings:
        """Return how rows descend, with Langevin noise."""
        return super().descent_settings()._replace(langevin=self.config.langevin)

    def remarks(self, observation: Observation) -> tuple[str, ...]:
        """Say when there are no statistics to match."""
        if running_statistics(observation.model):
            return ()
        return ("the model keeps no running statistics: that prior is left out",)

    def _distance(self, gradients: Gradients) -> Tensor:
        return self.config.gradient_weight * squared(gradients)

    def _statistics(self, observation: Observation) -> StatisticsDistance | None:
        if not self.config.statistics_weight or not running_statistics(observation.model):
            return None
        return StatisticsDistance(observation, observation.sites)
