"""map-estimate: search the image of largest posterior probability under noise of a known distribution (MAP).

Gaussian noise: |g(x) - g*|^2 / (2 s^2). Laplace noise: sqrt(2) |g(x) - g*|_1 / s. Relative noise has its own scale in
each tensor, computed from the received gradient: noise s rms(g_l) leaves rms(g*_l)^2 = (1 + s^2) rms(g_l)^2. If noise
is on some unknown entries (`grad-defense`), the absolute distance replaces the likelihood, which has a spike at 0 that
no descent finds; as long as most entries are exact the noise hardly moves the minimum. The absolute distance needs
explicit gradients, which are slower. Every matching attack with granted defenses can use the distance `likelihood`.

Idea: the optimal distance under noise of a known distribution is the noise's negative log likelihood.
Equation: min over x of -log p(g* | x) + l_tv TV(x), each divided by its number of entries; -log p is the distance
    `likelihood`, and l_tv the weight of the prior `total-variation`.
Assumes: honest-but-curious server, a single gradient, granted the defenses. If the client clips, the dummy's gradient
    is clipped too.
Recovers: images, labels, and dropout masks of known rates; unknown rates are ignored.
Fails: noise that drowns the gradient; weight deltas, whose noise has another scale; an unknown distribution or scale.
Source: Balunovic, Dimitrov, Staab, Vechev 2022, arXiv 2111.04706, section 4.
"""

from __future__ import annotations

from typing import ClassVar, final

from attacks.core.matching.attack import MaskSearchAttack, MaskSearchConfig
from attacks.core.matching.distances.likelihood import known_noise
from attacks.core.matching.terms import DistanceChoice, PriorChoice, distance_setting, prior_settings
from attacks.core.matching.unknown_masks import FirstMasks
from attacks.core.outlooks import tolerant_outlook
from fedsim.core.hooks import CostEstimate, Effort, Tables
from fedsim.core.registry import attack
from fedsim.core.types import Knowledge, Observation


class MapConfig(MaskSearchConfig):
    """Settings of the search for the most probable image."""

    distance: DistanceChoice = distance_setting("likelihood")
    priors: tuple[PriorChoice, ...] = prior_settings({"total-variation": 1e-2})


@final
@attack(
    "map-estimate",
    summary="most probable image for noise of a known law",
    tier="core",
    aliases=("map",),
    paper="2111.04706",
    fidelity="variant",
    deviates="the prior is total variation; clipping and rounding have laws too",
    paper_steps=(
        (
            "likelihood of the gradient under the defense",
            "attacks.core.matching.distances.likelihood.Likelihood.measure",
        ),
        ("search for the most probable image", "attacks.core.matching.attack.MatchingAttack.plan"),
    ),
)
class Map(MaskSearchAttack[MapConfig]):
    """Uses the negative log likelihood of the noise as the distance."""

    effort: ClassVar[Effort] = "descent"
    first_masks: ClassVar[FirstMasks] = "mean"
    needs: ClassVar[frozenset[Knowledge]] = frozenset({"defenses"})
    training_mode: ClassVar[bool] = False
    example: ClassVar[Tables] = {"defenses": [{"name": "gradient-noise", "scale": 1e-3}]}

    def estimate_success(self, observation: Observation) -> tuple[float, str]:
        """Expect more than of descents that ignore the noise."""
        return 0.5, "its distance is the likelihood of the known noise"

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse updates without known noise, several steps, and weight deltas."""
        noise = known_noise(observation)
        return noise if isinstance(noise, str) else super().not_applicable(observation)

    def outlook(self, observation: Observation) -> CostEstimate:
        """Expect the most of all descents, since known noise does not disturb it."""
        chance, because = self.estimate_success(observation)
        gradients = self.count_gradients(observation)
        return tolerant_outlook(observation, gradients, chance, because, rows=self.config.restarts)
