"""Privacy guarantees of private methods."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from fedsim.core.types import Adjacency, Unit
from fedsim.record.parts import RecordModel


class GuaranteeRecord(RecordModel):
    """Guarantee of a differentially private method in an arm. Epsilon has no meaning without the other fields.

    `source` names the method. `epsilon` is the tightest upper bound at `delta`, computed by `accountant`: ``exact``
    (Gaussian noise without sampling), ``PRV`` or ``RDP``; `rdp_epsilon` is the RDP bound, never smaller.
    `noise_multiplier` is the noise standard deviation over the sensitivity under `adjacency`, `sampling_rate` the
    probability that the unit is in a given step of the `steps`; `composition` describes the composed rounds, `against`
    the adversary, and `holds_against_server` whether the server is covered.
    """

    source: str
    epsilon: float
    delta: float
    rdp_epsilon: float
    accountant: Literal["exact", "PRV", "RDP", "none"]
    unit: Unit
    adjacency: Adjacency
    noise_multiplier: float
    sampling_rate: float
    steps: int
    composition: str
    adversary: str
    holds_against_server: bool = True

    @property
    def figure(self) -> str:
        """Epsilon and delta as text."""
        return f"epsilon {self.epsilon:.3g} at delta {self.delta:g} (RDP {self.rdp_epsilon:.3g})"

    @property
    def neighbours(self) -> str:
        """The difference of two neighbouring data sets as text."""
        verb = "one more or less" if self.adjacency == "add-or-remove" else "one replaced"
        return f"{'one record of a client' if self.unit == 'record' else 'a client with all records'}, {verb}"

    @property
    def sampling(self) -> str:
        """The sampling of a step as text."""
        return "no sampling" if self.sampling_rate == 1 else f"Poisson sampling at rate {self.sampling_rate:.4g}"


def weakest_against_server(stated: Iterable[GuaranteeRecord]) -> GuaranteeRecord | None:
    """Return the guarantee against the server with the largest epsilon; None without such a guarantee."""
    holding = (guarantee for guarantee in stated if guarantee.holds_against_server)
    return max(holding, key=lambda candidate: candidate.epsilon, default=None)
