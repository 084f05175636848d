"""How well attacks told members from others."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from fedsim.core.types import Target
from fedsim.record.parts import Interval, Part


class TruePositives(Part):
    """Share of the members that are found where at most a share `fpr` of the non-members is taken for members.

    `tpr` has a Clopper-Pearson interval at the threshold that was found; it is None when there are fewer than 1 / fpr
    non-members, which cannot show so small a rate.
    """

    fpr: float
    tpr: Interval | None


class MembershipSummary(Part):
    """How well scores tell members from others.

    `auc` is the probability that a member scores above a non-member. `advantage` is TPR - FPR, which is twice the
    balanced accuracy minus one, at a threshold that is chosen on one half of the candidates and judged on the other.
    `roc` holds (FPR, TPR), thinned.
    """

    auc: Interval
    advantage: float
    low_fpr: tuple[TruePositives, ...]
    roc: tuple[tuple[float, float], ...]

    @property
    def more(self) -> dict[str, Interval]:
        """Its figures beside the AUC, by the name of their metric."""
        rates = {f"tpr_at_fpr_{own.fpr:g}": own.tpr for own in self.low_fpr if own.tpr is not None}
        return {**rates, "advantage": Interval(value=self.advantage, low=None, high=None, n=self.auc.n)}


class GroupRisk(Part):
    """Risk of one group of examples: a share or an AUC with its interval.

    `p` is that of no difference to the rest, after Holm over the groups; None where there is no rest.
    """

    group: str
    n: int
    value: Interval
    p: float | None


class MembershipRecord(Part):
    """One membership attack in one arm: on the trained model, or on the updates of `client` in `rounds`."""

    label: str
    name: str
    settings: dict[str, Any]
    target: Target
    members: int
    non_members: int
    client: int | None = None
    rounds: tuple[int, ...] = ()
    summary: MembershipSummary | None = None
    failure: str | None = None
    seconds: float = Field(default=0.0, description="wall time without shadow models; differs between runs")
