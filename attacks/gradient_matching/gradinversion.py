"""gradinversion: search images from several seeds jointly, with image priors and a pull to the seeds' mean.

Idea: seeds agree on what the gradient determines. Running statistics of batch normalisation describe the activations
    of real images, so such layers help this attack; without them the term is left out, and the record says so.
Equation: min over x of a_g |g - g*|^2 + a_tv TV(x) + a_l2 |x|^2 + a_bn sum over layers of (|mean - running mean| +
    |variance - running variance|) + a_grp |x - mean over seeds|^2. All terms count, so it is not zero at the truth.
    a_g is the weight of `distance`, the others are those of `priors`.
Assumes: honest-but-curious server, a single gradient; granted labels are used, others inferred, no class twice. Seeds
    are registered by assigning images of one label to each other, not by optical flow as in the paper.
Recovers: images, labels, and dropout masks of known rates, separate for each seed; unknown rates are ignored.
Fails: classes that repeat in a batch if labels are not granted.
Source: Yin et al. 2021, arXiv 2104.07586.
"""

from __future__ import annotations

from typing import Any, ClassVar, final

from pydantic import Field

from attacks.core.labels import LabelRule
from attacks.core.matching.attack import MaskSearchAttack, MaskSearchConfig
from attacks.core.matching.descent import ScheduleName
from attacks.core.matching.optimizers import Sign
from attacks.core.matching.terms import DistanceChoice, PriorChoice, distance_setting, prior_settings
from fedsim.core.hooks import Effort
from fedsim.core.registry import attack

_FEWEST_SEEDS = 2


class GradInversionConfig(MaskSearchConfig):
    """Settings of GradInversion. Seeds are `restarts`."""

    sign: Sign = Field(
        default="off", description="hard: only the sign of the inputs' gradient; soft: tanh(g / its RMS); off: as it is"
    )
    distance: DistanceChoice = distance_setting("squared")
    priors: tuple[PriorChoice, ...] = prior_settings(
        {"total-variation": 1e-4, "squared-norm": 1e-6, "group-consistency": 0.01, "batch-statistics": 0.1}
    )
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
    langevin: float = Field(
        default=0.01, ge=0, description="standard deviation of the noise on the gradient, in steps; 0.2 in the paper"
    )


@final
@attack(
    "gradinversion",
    summary="squared distance, image priors and group consistency",
    paper="2104.07586",
    fidelity="variant",
    deviates="seeds are registered by assignment, not optical flow; masks are unknowns",
    aliases=("see-through-gradients",),
)
class GradInversion(MaskSearchAttack[GradInversionConfig]):
    """Runs the seeds as rows of one computation, so that each is compared with the others."""

    effort: ClassVar[Effort] = "descent"

    @classmethod
    def settings_for_budget(cls, gradients: int) -> dict[str, Any]:
        """Return settings with two seeds, and half as many iterations each."""
        return {"max_iterations": max(1, gradients // _FEWEST_SEEDS), "restarts": _FEWEST_SEEDS, "warm_up": 0}
