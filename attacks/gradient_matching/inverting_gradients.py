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
        ("cosine distance", "attacks.core.matching.distances.cosine.CosineDistance"),
        ("total variation", "attacks.core.matching.priors.total_variation.total_variation"),
        ("Adam on the sign of the gradient", "attacks.core.matching.optimizers.sign_gradient"),
        ("inputs in the pixel range", "attacks.core.matching.descent._project"),
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
