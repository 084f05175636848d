"""What private methods guaranteed, and what an audit with canaries showed of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from fedsim.core.types import Adjacency, Unit
from fedsim.record.parts import Part


class GuaranteeRecord(Part):
    """What a differentially private method guaranteed in an arm. An epsilon without the other fields says nothing.

    `source` names the method. `epsilon` is the least upper bound at `delta`, `accountant` who computed it: ``exact``
    (Gaussian noise without sampling), ``PRV`` or ``RDP``; `rdp_epsilon` is a second opinion, and never the smaller one.
    `noise_multiplier` is the noise over the sensitivity under `adjacency`, `sampling_rate` the probability that the
    unit takes part in one of the `steps`; `composition` says whose rounds were composed, `against` whom it holds, and
    `holds_against_server` whether the server is among these.
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
    against: str
    holds_against_server: bool = True

    @property
    def figure(self) -> str:
        """Epsilon and delta, for people."""
        return f"epsilon {self.epsilon:.3g} at delta {self.delta:g} (RDP {self.rdp_epsilon:.3g})"

    @property
    def neighbours(self) -> str:
        """What two data sets that it makes hard to tell apart differ in, for people."""
        verb = "one more or less" if self.adjacency == "add-or-remove" else "one replaced"
        return f"{'one record of a client' if self.unit == 'record' else 'a client with all records'}, {verb}"

    @property
    def sampling(self) -> str:
        """Who takes part in a step, for people."""
        return "no sampling" if self.sampling_rate == 1 else f"Poisson sampling at rate {self.sampling_rate:.4g}"


def weakest_against_server(stated: Iterable[GuaranteeRecord]) -> GuaranteeRecord | None:
    """Return the guarantee of the largest epsilon among those that hold against the server; None without any."""
    holding = (one for one in stated if one.holds_against_server)
    return max(holding, key=lambda one: one.epsilon, default=None)
