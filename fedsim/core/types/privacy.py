"""What a private mechanism states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Unit = Literal["record", "client"]


Adjacency = Literal["add-or-remove", "replace"]


@dataclass(frozen=True)
class Mechanism:
    """Subsampled Gaussian noise as it is run in one round: what an accountant needs, and whom it protects from whom.

    Attributes:
        unit: what two neighbouring data sets differ in: one record of a client, or one client with all his records.
        adjacency: how they differ.
        noise_multiplier: standard deviation of the noise in units of the sensitivity under that adjacency.
        sampling_rate: probability that the unit takes part in a step, independent of all others; 1 for no sampling.
        steps: noisy steps a round.
        delta: of the (epsilon, delta) that is reported.
        against: who may see what, for the guarantee to hold, in words that follow "against".
        holds_against_server: whether the server is among them, with all that the threat model lets it see.
    """

    unit: Unit
    adjacency: Adjacency
    noise_multiplier: float
    sampling_rate: float
    steps: int
    delta: float
    against: str
    holds_against_server: bool = True
