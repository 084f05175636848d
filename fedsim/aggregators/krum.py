"""krum: selects the update nearest to its neighbours, or averages several such updates.

Idea: Honest updates lie close together; updates far from the others are left out.
Equation: score = sum of squared distances to the nearest n - f - 2 of the n - 1 other updates; lowest scores win, equal
    scores by client number.
Assumes: n > 2 f + 2 clients, f of which may send arbitrary updates.
Fails: against more than f colluding clients; it needs single updates. Flower's Krum and MultiKrum (1.42) accept any f,
    lose close distances to rounding, weigh by stated examples, and break ties in any order.
Source: Blanchard et al. 2017, NeurIPS, arXiv 1703.02757.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from fedsim.core.errors import FedsimError
from fedsim.core.hooks import Aggregator, ServerRound
from fedsim.core.registry import aggregator
from fedsim.core.types import Config, Contribution

_BLOCK = 1 << 16


class KrumConfig(Config):
    """Settings of Krum."""

    byzantine: int = Field(default=1, ge=0, description="f: clients that may send anything; needs n > 2 f + 2 updates")
    keep: int = Field(default=1, ge=1, description="updates that are averaged; 1: Krum, more: multi-Krum")


@final
@aggregator(
    "krum",
    summary="mean of the updates nearest to their neighbours (Krum, multi-Krum)",
    tier="baseline",
    paper="1703.02757",
    fidelity="reproduction",
    paper_steps=(
        ("score: distances to the nearest updates", "Krum.combine"),
        ("mean of several updates of lowest score", "Krum.combine"),
    ),
)
class Krum(Aggregator[KrumConfig]):
    """Keeps a round's updates in memory; time grows with the square of their number."""

    needs_single_updates: ClassVar[bool] = True

    def combine(self, contributions: Iterable[Contribution], server_round: ServerRound) -> Tensor:
        """Return the unweighted mean of the `keep` updates with the lowest scores.

        Raises:
            FedsimError: there are too few updates for `byzantine` or `keep`.
        """
        vectors = [contribution.vector for contribution in contributions]
        self._check(len(vectors))
        distances = _squared_distances(vectors).fill_diagonal_(torch.inf)
        neighbours = len(vectors) - self.config.byzantine - 2
        scores = distances.sort(dim=1).values[:, :neighbours].sum(dim=1)
        best = scores.argsort(stable=True)[: self.config.keep].sort().values
        return torch.stack([vectors[index] for index in best.tolist()]).mean(dim=0)

    def _check(self, count: int) -> None:
        byzantine, keep = self.config.byzantine, self.config.keep
        if count <= 2 * byzantine + 2:
            raise FedsimError(
                f"aggregation.byzantine is {byzantine}, for which Krum needs at least {2 * byzantine + 3} updates a "
                f"round; {count} arrived. Lower aggregation.byzantine or let more clients take part."
            )
        if keep > count - byzantine:
            raise FedsimError(
                f"aggregation.keep is {keep}, expected at most {count - byzantine}, the {count} "
                f"updates of the round without aggregation.byzantine = {byzantine}: a larger "
                "mean includes a Byzantine update."
            )


def _squared_distances(vectors: list[Tensor]) -> Tensor:
    """Return all squared distances, shape (n, n), as sums of squared differences in double precision."""
    total = torch.zeros(len(vectors), len(vectors), dtype=torch.float64, device=vectors[0].device)
    for block in zip(*(vector.split(_BLOCK) for vector in vectors), strict=True):
        rows = torch.stack(block).double()
        for index in range(1, len(rows)):
            total[index, :index] += (rows[:index] - rows[index]).square_().sum(dim=1)
    return total + total.T
