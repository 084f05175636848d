"""mixup-inversion: search the weight and the pairing of a MixUp batch together with its images.

A search runs for every permutation P; batches with more pairings than `pairings` are refused (24: four examples). The
notes name P. Total variation does not apply to images under InstaHide's random signs.

Idea: the mixing W is part of the simulated client, so x is unmixed, and the prior is on images, not mixtures.
Equation: for every permutation P, min over x, l of 1 - cos(g(W x, W y), g*) + l_tv TV(x), W = l I + (1 - l) P, l in [0,
    1]; the P of the lowest objective is kept.
Assumes: honest-but-curious server, a single gradient, granted the defenses. Labels granted or inferred as without
    MixUp, since mixing keeps their mean. At most `pairings` permutations.
Recovers: images, labels, the weight and the pairing; dropout masks of known rates, unknown rates are ignored.
Fails: swapped pairs at l = 1/2, where both mixtures are the same; larger batches; InstaHide's random signs.
Source: this project; MixUp: Zhang et al. 2018, arXiv 1710.09412.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from attacks.core.matching.attack import MaskSearchConfig, MatchingAttack, best_row
from attacks.core.matching.comparison import Comparison, GeneralComparison
from attacks.core.matching.descent import RestartResult, Search
from attacks.core.matching.hypotheses import HypothesesAttack
from attacks.core.matching.simulated_client import SimulatedClient
from attacks.core.matching.unknowns import NOTHING, Unknowns, UnknownWeight, Values
from fedsim.core.hooks import Effort, Tables
from fedsim.core.registry import attack
from fedsim.core.types import Masks, Observation, Reconstruction
from fedsim.core.types.effects import MixedExamples

_MIXED = 2
_LARGEST = 20  # batch size up to which pairings are counted; even a smaller batch is too large for all of them
_SHARE = "weight"


class MixupInversionConfig(MaskSearchConfig):
    """Settings of MixUp inversion."""

    share_learning_rate: float = Field(default=0.02, gt=0, description="Adam's step for the weight l")
    pairings: int = Field(
        default=24, ge=1, description="most permutations that are searched; batches with more are refused"
    )


@final
@attack(
    "mixup-inversion", summary="searches MixUp's weight and pairing with the data", tier="core", related="1710.09412"
)
class MixupInversion(HypothesesAttack[MixupInversionConfig]):
    """Runs a search for each permutation, each with all restarts."""

    effort: ClassVar[Effort] = "descent"
    inverts_augmentation: ClassVar[bool] = True
    example: ClassVar[Tables] = {"defenses": [{"name": "mixup"}], "federation": {"batch_size": 2}}

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse if no defense mixes pairs, and batches with too many pairings."""
        if MixedExamples(_MIXED) not in observation.effects(MixedExamples):
            return "no defense in use mixes pairs of examples"
        count = math.factorial(observation.batch_size or 1)
        if count > self.config.pairings:
            return f"the batch can be paired in {count} ways; `pairings` allows {self.config.pairings}"
        return super().not_applicable(observation)

    def unknowns(self, observations: Sequence[Observation]) -> Unknowns:
        """Return the masks and the weight as unknowns."""
        share = UnknownWeight(_SHARE, rate=self.config.share_learning_rate)
        return super().unknowns(observations).followed_by(share)

    def count_hypotheses(self, observation: Observation) -> int:
        """Return the number of pairings."""
        return math.factorial(min(observation.batch_size or 1, _LARGEST))

    def estimate_success(self, observation: Observation) -> tuple[float, str]:
        """Expect much: mixtures are smooth functions of the examples."""
        return 0.31, "pairings are tried, and weights searched"

    def hypotheses(self, observation: Observation) -> list[MatchingAttack[MixupInversionConfig]]:
        """Return a search for every pairing."""
        return [_Paired(self.config, partners) for partners in _pairings(observation)]

    def report(
        self, observation: Observation, rows: Sequence[RestartResult], labels: Tensor, path: str
    ) -> Reconstruction:
        """Report the best row with its pairing and weight."""
        best = best_row(rows)
        share, partners = float(best.extra_values[_SHARE][0]), _pairings(observation)[self.hypothesis_of(best)]
        result = super().report(observation, rows, labels, path)
        note = f"explained best by the weight {share:.3f} and the partners {list(partners)}"
        return replace(result, notes=(*result.notes, note), diagnostics={**result.diagnostics, "weight": share})


class _Paired(MatchingAttack[MixupInversionConfig]):
    """The search under one pairing."""

    def __init__(self, config: MixupInversionConfig, partners: tuple[int, ...]) -> None:
        super().__init__(config)
        self._partners = partners

    def unknowns(self, observations: Sequence[Observation]) -> Unknowns:
        return MixupInversion(self.config).unknowns(observations)

    def comparison(self, observations: Sequence[Observation], search: Search) -> Comparison:
        first = observations[0]
        plain = self.simulated_client(first)
        identity = torch.eye(len(self._partners)).to(next(plain.model.parameters()))
        weights: list[Tensor] = []

        def loss(outputs: Tensor, labels: Tensor) -> Tensor:
            return plain.loss(outputs, weights[-1] @ F.one_hot(labels, first.spec.classes).to(outputs))

        changes = {"loss": loss, "identity": identity, "partners": identity[list(self._partners)], "weights": weights}
        mixed = _MixedClient(**{**vars(plain), **changes})
        return GeneralComparison(mixed, observations)


@dataclass(frozen=True)
class _MixedClient(SimulatedClient):
    """Simulated client that mixes the inputs by the row's searched weight l.

    Attributes:
        identity: shape (B, B).
        partners: P, shape (B, B).
        weights: W of the latest forward pass; the loss uses it.
    """

    identity: Tensor = field(default_factory=lambda: torch.eye(1))
    partners: Tensor = field(default_factory=lambda: torch.eye(1))
    weights: list[Tensor] = field(default_factory=list[Tensor])

    def outputs(
        self, inputs: Tensor, masks: Masks, weights: Mapping[str, Tensor], variables: Values = NOTHING
    ) -> Tensor:
        """Return the model's outputs for W x, and store W."""
        (share,) = variables[_SHARE]
        self.weights[:] = [share * self.identity + (1.0 - share) * self.partners]
        mixed = (self.weights[0] @ inputs.flatten(1)).view_as(inputs)
        return super().outputs(mixed, masks, weights, variables)


def _pairings(observation: Observation) -> list[tuple[int, ...]]:
    return list(itertools.permutations(range(observation.batch_size or 1)))
