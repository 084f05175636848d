"""gradinversion: search images from several seeds jointly, with image priors and a pull to the seeds' mean.

The search is Adam with warm-up, a cosine schedule and Langevin noise. The priors are `total-variation`, `squared-norm`,
`batch-statistics` and `group-consistency`. The weight of the distance is 1e-4 in the paper for ResNet-50 on ImageNet
and 1 here. Unknown labels are the classes whose rows of the last layer's gradient have the smallest entries.

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

from attacks.core.labels import LabelRule
from attacks.core.matching.attack import MaskSearchAttack, MaskSearchConfig
from attacks.core.matching.descent import ScheduleName
from attacks.core.matching.optimizers import Sign
from attacks.core.matching.terms import DistanceChoice, PriorChoice, distance_setting, prior_settings
from fedsim.core.hooks import Effort
from fedsim.core.registry import attack
from fedsim.core.types import Observation, change_default

_FEWEST_SEEDS = 2


class GradInversionConfig(MaskSearchConfig):
    """Settings of GradInversion. Seeds are `restarts`, which are pulled together."""

    sign: Sign = change_default(MaskSearchConfig, sign="off")
    distance: DistanceChoice = distance_setting("squared")
    priors: tuple[PriorChoice, ...] = prior_settings(
        {"total-variation": 1e-4, "squared-norm": 1e-6, "group-consistency": 0.01, "batch-statistics": 0.1}
    )
    schedule: ScheduleName = change_default(MaskSearchConfig, schedule="cosine")
    warm_up: int = change_default(MaskSearchConfig, warm_up=50)
    threshold: float = change_default(MaskSearchConfig, threshold=0.0)
    label_rule: LabelRule = change_default(MaskSearchConfig, label_rule="distinct")
    restarts: int = change_default(MaskSearchConfig, restarts=8)
    langevin: float = change_default(MaskSearchConfig, langevin=0.01)  # 0.2 in the paper


@final
@attack(
    "gradinversion",
    summary="squared distance, image priors and group consistency",
    tier="core",
    paper="2104.07586",
    fidelity="variant",
    deviates="seeds are registered by assignment, not optical flow; masks are unknowns",
    paper_steps=(
        ("labels without repetition", "attacks.core.labels.distinct_labels"),
        ("prior of batch statistics", "attacks.core.matching.priors.batch_statistics.StatisticsDistance"),
        ("several seeds with a pull to their mean", "attacks.core.matching.priors.group_consistency.group_distance"),
        ("Langevin noise", "attacks.core.matching.descent._noise"),
        ("registration of seeds by optical flow", ""),
    ),
    aliases=("see-through-gradients",),
)
class GradInversion(MaskSearchAttack[GradInversionConfig]):
    """Runs the seeds as rows of one computation, so that each is compared with the others."""

    effort: ClassVar[Effort] = "descent"

    @classmethod
    def settings_for_budget(cls, gradients: int) -> dict[str, Any]:
        """Return settings with two seeds, and half as many iterations each."""
        return {"max_iterations": max(1, gradients // _FEWEST_SEEDS), "restarts": _FEWEST_SEEDS, "warm_up": 0}

    def estimate_success(self, observation: Observation) -> tuple[float, str]:
        """Expect less than of other descents: its priors are not zero at the examples."""
        return 0.1, "its priors blur the images"
