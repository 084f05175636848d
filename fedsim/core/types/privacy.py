"""Statement of a private mechanism."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Unit = Literal["record", "client"]


Adjacency = Literal["add-or-remove", "replace"]


@dataclass(frozen=True)
class Mechanism:
    """Subsampled Gaussian mechanism of one round: parameters for an accountant, protected unit, and adversary.

    Attributes:
        unit: difference of neighbouring data sets: a record of a client, or a client with all its records.
        adjacency: add or remove, or replace, one unit.
        noise_multiplier: standard deviation of the noise in units of the sensitivity under that adjacency.
        sampling_rate: probability that the unit is in a step, independent of all others; 1 without sampling.
        steps: noisy steps per round.
        delta: delta of the reported (epsilon, delta).
        adversary: adversaries for which the guarantee holds, as words after "against".
        holds_against_server: whether the server is among them, with its full view under the threat model.
    """

    unit: Unit
    adjacency: Adjacency
    noise_multiplier: float
    sampling_rate: float
    steps: int
    delta: float
    adversary: str
    holds_against_server: bool = True
