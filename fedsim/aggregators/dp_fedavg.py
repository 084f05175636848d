"""dp-fedavg: clips each client's update, adds noise to the sum, and divides by the expected cohort.

All clients have the same weight. A round without replies adds only noise to the model: skipping it would reveal that no
client replied. With `quantile` the sum gets the multiplier (z^-2 - (2 sigma_b)^-2)^(-1/2), sigma_b = `count_noise`, so
that both releases together cost z; bits of 0 and 1 would need (z^-2 - sigma_b^-2)^(-1/2). Under Poisson sampling the
neighbours add or remove a client, sampled at rate q. In a cohort of fixed size a client can only be replaced, which
moves the sum by 2S, without amplification. Running variances may become negative: use group or layer normalisation.
Updates that are not finite are left out. Against the server use `local-dp`, `distributed-dp` or, for single records,
`dp-sgd`.

Idea: No client moves the sum by more than S, so noise of that scale hides whether a client took part.
Equation: (sum over clients of u_k min(1, S / ||u_k||) + N(0, (z S)^2 I)) / (q W); with `quantile` gamma,
    S <- S exp(-eta (b - gamma)), b the noisy share of updates below S. Bits are +1/2 or -1/2, so a client moves their
    sum by 1/2.
Assumes: a trusted server; it protects a client only against observers of the global models.
Fails: against the server, which sees every update.
Source: McMahan et al. 2018, arXiv 1710.06963, algorithm 1; quantile: Andrew et al. 2021, arXiv 1905.03871, algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar, Self, final

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fedsim.core.hooks import Aggregator, PublicFederation, ServerRound
from fedsim.core.registry import aggregator
from fedsim.core.types import Config, Contribution, Mechanism

_COUNTS_A_DEVIATION = 20.0  # Andrew et al., section 3.1: sigma_b = qW / 20


class DpFedAvgConfig(Config):
    """Settings of DP-FedAvg."""

    clip: float = Field(
        default=1.0,
        gt=0,
        description="S: largest norm of an update; with `quantile` the value in round 1",
    )
    noise_multiplier: float = Field(default=1.0, ge=0, description="z: noise multiplier of all that a round releases")
    delta: float = Field(default=1e-5, gt=0, lt=1, description="delta at which epsilon is stated")
    quantile: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="gamma: share of the updates that S should leave unclipped; absent: S is constant",
    )
    clip_rate: float = Field(default=0.2, gt=0, description="eta: how fast S follows the quantile")
    count_noise: float | None = Field(
        default=None,
        gt=0,
        description="standard deviation of the noise on the number of unclipped updates, above noise_multiplier / 2; "
        "absent: a twentieth of the cohort, and at least noise_multiplier",
    )

    @model_validator(mode="after")
    def _leaves_a_share(self) -> Self:
        if self.quantile is not None and self.count_noise is not None and self.count_noise <= self.noise_multiplier / 2:
            raise ValueError(
                f"count_noise is {self.count_noise:g}, expected above noise_multiplier / 2 = "
                f"{self.noise_multiplier / 2:g}: with less, the count alone spends more than the whole guarantee"
            )
        return self


@final
@aggregator(
    "dp-fedavg",
    summary="mean of clipped updates with noise, with an epsilon",
    tier="core",
    paper="1710.06963",
    fidelity="reproduction",
    paper_steps=(
        ("clients sampled independently", "fedsim.federation.participation.cohort"),
        ("updates clipped, summed and divided by the expected cohort", "DpFedAvg.combine"),
        ("Gaussian noise on the sum", "DpFedAvg.combine"),
        ("accountant over rounds", "DpFedAvg.mechanism"),
    ),
)
class DpFedAvg(Aggregator[DpFedAvgConfig]):
    """Client-level differential privacy by a trusted server; all clients have the same weight.

    Buffers are clipped and get noise like weights, so running variances may become negative.
    """

    needs_single_updates: ClassVar[bool] = True
    acts_without_updates: ClassVar[bool] = True

    def __init__(self, config: DpFedAvgConfig) -> None:
        super().__init__(config)
        self.clip = config.clip

    def combine(self, contributions: Iterable[Contribution], server_round: ServerRound) -> Tensor:
        """Return the noisy mean over the expected cohort; only noise if no update is finite."""
        total: Tensor | None = None
        threshold_noise = 0.0
        for contribution in contributions:
            norm = float(contribution.vector.double().norm())
            if not math.isfinite(norm):
                continue  # clipping cannot bound a non-finite update
            threshold_noise += (norm <= self.clip) - 0.5
            factor = min(1.0, self.clip / norm) if norm > 0 else 1.0
            if total is None:
                total = contribution.vector * factor
            else:
                total.add_(contribution.vector, alpha=factor)
        total = torch.zeros(server_round.size) if total is None else total
        deviation = self._compute_sum_noise(server_round.expected_clients) * self.clip
        noisy = server_round.add_noise(total, deviation)
        self._follow(threshold_noise, server_round)
        return noisy / server_round.expected_clients

    def mechanism(self, federation: PublicFederation) -> Mechanism | None:
        """Return the mechanism of a round.

        Under Poisson sampling, adding or removing a client moves the sum by S, and a client takes part with probability
        q. In a
        cohort of fixed size a client can only be replaced, which moves the sum by 2S, without amplification by
        subsampling.
        """
        if not self.config.noise_multiplier:
            return None
        is_poisson = federation.cohort_sampling == "poisson"
        return Mechanism(
            unit="client",
            adjacency="add-or-remove" if is_poisson else "replace",
            noise_multiplier=self.config.noise_multiplier / (1.0 if is_poisson else 2.0),
            sampling_rate=federation.cohort / federation.clients if is_poisson else 1.0,
            steps=1,
            delta=self.config.delta,
            adversary="observers of the global models, including other clients, but not against the server",
            holds_against_server=False,
        )

    def _follow(self, threshold_noise: float, server_round: ServerRound) -> None:
        """Move the clipping norm towards the quantile for the next round."""
        if self.config.quantile is None:
            return
        count = server_round.add_noise(
            torch.tensor(threshold_noise, dtype=torch.float64), self._compute_count_noise(server_round.expected_clients)
        )
        share = float(count) / server_round.expected_clients + 0.5
        self.clip *= math.exp(-self.config.clip_rate * (share - self.config.quantile))

    def _compute_count_noise(self, expected: float) -> float:
        """Return sigma_b, the standard deviation of the noise on the count."""
        if not self.config.noise_multiplier:
            return 0.0
        return self.config.count_noise or max(expected / _COUNTS_A_DEVIATION, self.config.noise_multiplier)

    def _compute_sum_noise(self, expected: float) -> float:
        """Return the noise multiplier of the sum: (z^-2 - (2 sigma_b)^-2)^(-1/2) if S follows a quantile."""
        multiplier = self.config.noise_multiplier
        if self.config.quantile is None or not multiplier:
            return multiplier
        return (multiplier**-2 - (2.0 * self._compute_count_noise(expected)) ** -2) ** -0.5
