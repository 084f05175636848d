"""inverting-gradients: match the direction of the observed gradient, and ignore dropout (Inverting Gradients, IG).

Idea: the direction of a gradient has more information on the image than its norm. Adam uses the sign of the dummy's
    gradient.
Equation: min over x of 1 - cos(g(x), g*) + l_tv TV(x), with g* the observed gradient and TV the total variation.
Assumes: honest-but-curious server, a single gradient; labels granted or inferred.
Recovers: images and labels. Under dropout it is the lower reference of the Dropout Inversion Attack.
Fails: dropout: the search minimises the wrong function, and even the true image has a large objective. A bad image
    then does not mean that the gradient contains no image. Searches with many minima, such as LeNet on photographs.
Source: Geiping et al. 2020, arXiv 2003.14053, equation 4; schedule and stop rules of arXiv 2208.06163.
"""

from __future__ import annotations

from typing import Any, ClassVar, final

from attacks.core.matching.attack import MatchingAttack, MatchingConfig
from fedsim.core.hooks import Effort
from fedsim.core.registry import attack
from fedsim.core.types import Observation, View


@final
@attack(
    "inverting-gradients",
    summary="gradient matching that ignores dropout (IG)",
    tier="core",
    paper="2003.14053",
    fidelity="variant",
    deviates="schedule, weights and stop rules follow arXiv 2208.06163",
    paper_steps=(
        (
            "cosine distance",
            "attacks.core.matching.distances.cosine.CosineDistance",
            "tests/attacks/core/matching/distances/test_cosine.py::test_tensors_of_any_length_share_one_cosine",
        ),
        (
            "total variation",
            "attacks.core.matching.priors.total_variation.total_variation",
            "tests/attacks/core/matching/priors/test_total_variation.py::"
            "test_total_variation_is_the_mean_of_absolute_differences",
        ),
        (
            "Adam on the sign of the gradient",
            "attacks.core.matching.optimizers.sign_gradient",
            "tests/attacks/core/matching/test_optimizers.py::test_signs",
        ),
        (
            "inputs in the pixel range",
            "attacks.core.matching.descent._project",
            "tests/attacks/core/matching/test_attack.py::"
            "test_dummy_stays_in_its_box_masks_in_theirs_and_the_best_is_the_recorded_minimum",
        ),
    ),
    aliases=("ig",),
)
class InvertingGradients(MatchingAttack[MatchingConfig]):
    """Matches gradients in evaluation mode, without dropout."""

    effort: ClassVar[Effort] = "descent"
    views: ClassVar[frozenset[View]] = frozenset({"single-update", "sum"})
    training_mode: ClassVar[bool] = False

    @classmethod
    def settings_for_budget(cls, gradients: int) -> dict[str, Any]:
        """Return this number of iterations, with a cosine schedule and soft signs, which need the fewest."""
        return {"max_iterations": gradients, "schedule": "cosine", "sign": "soft"}

    def estimate_success(self, observation: Observation) -> tuple[float, str]:
        """Expect little under dropout."""
        if observation.sites:
            return 0.02, "under dropout it minimises the wrong function"
        return 0.28, "without dropout it minimises the client's own function"
