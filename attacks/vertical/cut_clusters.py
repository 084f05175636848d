"""cut-clusters: cluster the directions of gradients into as many clusters as there are classes.

Idea: early in training, the gradients of all examples of a class point the same way, and each class another way.
Equation: k-means of g_i / |g_i| with k = classes, best of several starts; clusters are matched to classes by their
    known examples.
Assumes: a known label of each class.
Recovers: labels of several classes without knowing the top, in the first epochs nearly all.
Fails: trained non-linear tops; fitted examples; noise.
Source: after the gradient clustering of Fu et al. 2022, USENIX Security, section 4; k-means is chosen here.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
import torch.nn.functional as F
from pydantic import Field
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from attacks.vertical._directions import check_known, directions
from fedsim.core.registry import attack
from fedsim.core.types import Config
from fedsim.questions.vertical.hooks import CutLabelAttack
from fedsim.questions.vertical.types import CutKnowledge, CutView, Evidence


class CutClustersConfig(Config):
    """Settings of cut-clusters."""

    starts: int = Field(default=10, ge=1, description="of k-means; the result with the tightest clusters is kept")
    iterations: int = Field(default=50, ge=1, description="of each start, at most")


@final
@attack(
    "cut-clusters",
    summary="labels by heaps of gradient directions at the cut",
    tier="core",
    related="Fu et al. 2022, USENIX Security",
)
class CutClusters(CutLabelAttack[CutClustersConfig]):
    """Clusters directions."""

    reads: ClassVar[Evidence] = "gradients"
    needs: ClassVar[frozenset[CutKnowledge]] = frozenset({"few-labels"})

    def search(self, view: CutView, generator: torch.Generator) -> Tensor:
        """Return minus the squared distance to the cluster of each class, shape (N, classes)."""
        check_known(view)
        all_rows = torch.cat([step.rows for step in view.steps])
        points = directions(view.received_gradients(all_rows).double())
        tries = [self._centres(points, view.classes, generator) for _ in range(self.config.starts)]
        _, centres = min(tries, key=lambda pair: pair[0])
        votes = F.one_hot(
            _nearest(directions(view.received_gradients(view.known_rows).double()), centres), view.classes
        ).double()
        named = torch.stack([votes[view.labels == label].mean(0) for label in range(view.classes)])
        heaps = linear_sum_assignment(named.numpy(), maximize=True)[1]
        return -torch.cdist(directions(view.received_gradients(view.rows).double()), centres[heaps]).square()

    def _centres(self, points: Tensor, count: int, generator: torch.Generator) -> tuple[float, Tensor]:
        """Return the sum of squared distances of points to their centres, and the centres, shape (count, width)."""
        centres = _first_centres(points, count, generator)
        for _ in range(self.config.iterations):
            heaps = F.one_hot(_nearest(points, centres), count).double()
            sizes = heaps.sum(0)[:, None]
            moved = torch.where(sizes > 0, heaps.T @ points / sizes.clamp_min(1), centres)
            if torch.equal(moved, centres):
                break
            centres = moved
        return float(torch.cdist(points, centres).amin(1).square().sum()), centres


def _first_centres(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return initial centres sampled by k-means++, shape (count, width)."""
    chosen = [int(torch.randint(len(points), (), generator=generator))]
    while len(chosen) < count:
        distances = torch.cdist(points, points[chosen]).amin(1).square().clamp_min(1e-12)
        chosen.append(int(torch.multinomial(distances, 1, generator=generator)))
    return points[chosen]


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    return torch.cdist(points, centres).argmin(1)
