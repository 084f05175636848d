"""transform-inversion: match gradients through the known transforms of the inputs, policy by policy.

It attacks ATS, and any defense that gives functions of the inputs in its fact `transforms`. The notes name the policy.

Idea: defenses such as ATS send the gradient of T(x). A wrong policy cannot explain traces of the right policy in the
    gradient, such as filled corners.
Equation: for every policy T_i, min over x of 1 - cos(g(T_i(x)), g*) + l_tv TV(x); the lowest objective is kept.
Assumes: honest-but-curious server, a single gradient, granted the defenses; labels granted or inferred.
Recovers: images, labels, the policy; dropout masks of known rates, unknown rates are ignored.
Fails: pixels that T discards, which only the prior determines; jumps (posterize, solarize), which have no derivative;
    policies that explain the gradient equally well.
Source: after Balunovic et al. 2022, arXiv 2111.04706, with weaker priors; ATS: Gao et al. 2021, arXiv 2011.12505.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, final

from torch import Tensor

from attacks.core.matching.attack import MaskSearchAttack, MaskSearchConfig, MatchingAttack, best_row
from attacks.core.matching.descent import RestartResult
from attacks.core.matching.hypotheses import HypothesesAttack
from attacks.core.matching.simulated_client import SimulatedClient
from attacks.mixed_batches._undo_defenses import Transform, transforms_of
from fedsim.core.hooks import Effort, Tables
from fedsim.core.registry import attack
from fedsim.core.types import Observation, Reconstruction


@final
@attack(
    "transform-inversion",
    summary="matches gradients through the known input transforms",
    tier="core",
    related="2011.12505",
)
class TransformInversion(HypothesesAttack[MaskSearchConfig]):
    """Runs a search for each policy, each with all restarts."""

    effort: ClassVar[Effort] = "descent"
    inverts_augmentation: ClassVar[bool] = True
    example: ClassVar[Tables] = {"defenses": [{"name": "ats"}]}

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse if no transforms are known."""
        if not transforms_of(observation):
            return "no defense in use transforms the inputs in a known way"
        return super().not_applicable(observation)

    def count_hypotheses(self, observation: Observation) -> int:
        """Return the number of policies."""
        return max(1, len(transforms_of(observation)))

    def estimate_success(self, observation: Observation) -> tuple[float, str]:
        """Expect some success: transforms discard pixels."""
        return 0.25, "each policy is tried, and pixels that it discards are guessed"

    def hypotheses(self, observation: Observation) -> list[MatchingAttack[MaskSearchConfig]]:
        """Return a search for every policy."""
        return [_Through(self.config, transform) for transform in transforms_of(observation)]

    def report(
        self, observation: Observation, rows: Sequence[RestartResult], labels: Tensor, path: str
    ) -> Reconstruction:
        """Report the best row and its policy."""
        policy = transforms_of(observation)[self.hypothesis_of(best_row(rows))]
        result = super().report(observation, rows, labels, path)
        return replace(result, notes=(*result.notes, f"explained best by the policy '{policy}'"))


class _Through(MaskSearchAttack[MaskSearchConfig]):
    """The search through one policy."""

    def __init__(self, config: MaskSearchConfig, transform: Transform) -> None:
        super().__init__(config)
        self._transform = transform

    def simulated_client(self, observation: Observation) -> SimulatedClient:
        plain = super().simulated_client(observation)
        plain.model.register_forward_pre_hook(lambda _module, inputs: (self._transform(inputs[0]), *inputs[1:]))
        return plain
