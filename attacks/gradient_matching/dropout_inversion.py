"""dropout-inversion: optimise the client's dropout masks jointly with its data (Dropout Inversion Attack, DIA).

Idea: the gradient belongs to one random sub-network. Dropout hides the image only from attackers that ignore the masks;
    as further unknowns the masks are recovered jointly with the image.
Equation: min over x, psi of 1 - cos(g(x, psi), g*) + l_tv TV(x) + l_m sum_l |(1 - mean psi_l) - p_l|, psi in [0, 1].
Assumes: honest-but-curious server, a single gradient of an untrained model, rates p_l known or assumed, labels granted
    or inferred. Without dropout and normalisation by batches it equals inverting-gradients.
Recovers: images, labels and masks.
Fails: searches with many minima, such as LeNet on photographs; updates of several local steps, which it refuses.
Source: Scheliga, Maeder, Seeland 2023, arXiv 2208.06163. Not in the paper, and off by default: `relaxation` other than
    box, masks inferred from zeros of the gradient (`read_out`), a second descent with rounded masks (`polish`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, final

from pydantic import Field

from attacks.core.mask_readout_rules import read_masks
from attacks.core.matching.attack import MaskSearchConfig, MatchingAttack, best_row
from attacks.core.matching.descent import Descent, RestartResult, descend
from attacks.core.matching.unknown_masks import FirstMasks, GivenMasks, Relaxation
from attacks.core.matching.unknowns import MASKS, Unknowns
from fedsim.core.foreign import pytorch
from fedsim.core.hooks import Effort
from fedsim.core.registry import attack
from fedsim.core.types import DropoutSite, Observation, View


class DropoutInversionConfig(MaskSearchConfig):
    """Settings of DIA."""

    mask_learning_rate: float | None = Field(
        default=None, gt=0, description="Adam's step for the masks; the step for the inputs when absent"
    )
    first_masks: FirstMasks = Field(
        default="bernoulli",
        description="start of the masks; bernoulli: drawn as the client's; ones: all 1; mean: all 1 - p",
    )
    relaxation: Relaxation = Field(
        default="box",
        description="box: masks in [0, 1]; sigmoid: their logits; straight-through: rounded in the forward pass only",
    )
    read_out: bool = Field(
        default=False, description="for a single example: infer masks from zeros of the gradient and fix them"
    )
    polish: bool = Field(
        default=False,
        description="round the masks afterwards and descend again from the best dummy; kept if the objective is lower",
    )
    assumed_rate: float = Field(default=0.25, gt=0, lt=1, description="dropout rate p to assume when it is not known")


@final
@attack(
    "dropout-inversion",
    summary="optimises dropout masks jointly with the data (DIA)",
    tier="core",
    paper="2208.06163",
    fidelity="reproduction",
    aliases=("dia",),
    paper_steps=(
        ("joint search over inputs and masks", "DropoutInversion.unknowns"),
        ("price of masks away from the dropout rate", "attacks.core.matching.unknown_masks.OptimisedMasks.prior"),
        ("first masks drawn as the client's", "attacks.core.matching.unknown_masks.OptimisedMasks._draw"),
        ("objective: cosine distance and total variation", "attacks.core.matching.attack.MatchingAttack.plan"),
        ("sign of the inputs' gradient", "attacks.core.matching.optimizers.sign_gradient"),
        ("Adam on inputs and masks", "attacks.core.matching.optimizers.RowAdam"),
        ("inputs in the pixel range, masks in [0, 1]", "attacks.core.matching.descent._project"),
        ("a smaller step on a plateau", "attacks.core.matching.optimizers.Plateau"),
        ("stop rules", "attacks.core.matching.descent._has_ended"),
    ),
)
class DropoutInversion(MatchingAttack[DropoutInversionConfig]):
    """Matches gradients under optimised masks."""

    effort: ClassVar[Effort] = "descent"
    views: ClassVar[frozenset[View]] = frozenset({"single-update", "sum"})

    @classmethod
    def settings_for_budget(cls, gradients: int) -> dict[str, Any]:
        """Return settings that need about a tenth of the paper's iterations if masks can be inferred from zeros."""
        return {
            "max_iterations": gradients,
            "read_out": True,
            "schedule": "cosine",
            "first_masks": "mean",
            "mask_learning_rate": 0.2,
            "sign": "soft",
        }

    def estimate_success(self, observation: Observation) -> tuple[float, str]:
        """Expect more than of other descents, since dropout masks are searched too."""
        return 0.3, "dropout masks are searched with the data"

    def same_search(self, observation: Observation) -> str | None:
        """Return inverting-gradients for models without dropout and without normalisation by batches."""
        has_norms = any(isinstance(module, pytorch.BatchNorm) for module in observation.model.modules())
        return None if observation.sites or has_norms else "inverting-gradients"

    def unknowns(self, observations: Sequence[Observation]) -> Unknowns:
        """Return the masks as unknowns, except masks inferred from zeros of the gradient."""
        sites, config = self.sites(observations[0]), self.config
        can_read = config.read_out and bool(sites) and sites[0].shape[0] == 1
        return config.searched_masks(
            sites,
            rate=config.mask_learning_rate,
            known=tuple(read_masks(observation) if can_read else {} for observation in observations),
            begin=config.first_masks,
            relaxation=config.relaxation,
        )

    def sites(self, observation: Observation) -> tuple[DropoutSite, ...]:
        """Return the sites with their known rates, or with the assumed rate."""
        if "dropout-rates" in observation.threat.knows:
            return observation.sites
        return tuple(replace(site, rate=self.config.assumed_rate) for site in observation.sites)

    def run_descent(self, descent: Descent) -> list[RestartResult]:
        """Descend, then polish the best row of each victim if the settings request it."""
        rows, search, victims = descend(descent), descent.search, descent.victims
        if not self.config.polish or not victims.observations[0].sites:
            return rows
        bests = [best_row([row for row in rows if row.victim == victim]) for victim in range(len(victims.labels))]
        masks = tuple(tuple(mask.round() for mask in best.masks) for best in bests)
        known = Unknowns((GivenMasks(victim_masks=masks),))
        fixed = replace(search, unknowns=known, first=lambda victim, _generator: bests[victim].inputs)
        done = self.config.max_iterations
        later_victims = victims.as_part(restarts=self.config.restarts, done=done, iterations=2 * done)
        polished = descend(replace(descent, search=fixed, victims=later_victims, restarts=1))
        for row, best, row_masks in zip(polished, bests, masks, strict=True):
            row.start, row.masks = self.config.restarts, row_masks
            if row.objective >= best.objective - float(
                search.unknowns.prior({MASKS: tuple(m[None] for m in best.masks)})
            ):
                row.objective = math.inf  # its iterations count, but it cannot win
        return [*rows, *polished]
