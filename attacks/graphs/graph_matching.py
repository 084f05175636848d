"""graph-matching: search soft kinds and soft joins with the closest gradient, and round them.

Idea: DLG over graphs: a node is a softmax over kinds and a softmax over degrees, a join the sigmoid of a symmetric
    logit. Both are rounded at the end.
Equation: min over F, A of 1 - cos(g(softmax(F), sigmoid(A + A^T)), g*).
Assumes: honest-but-curious server, a single gradient, graphs with the largest number of nodes; masks as the settings
    say.
Recovers: some nodes and joins; whole graphs hardly ever. It is the baseline search for `graph-spans`.
Fails: whenever the number of nodes is smaller than the largest, which it does not search.
Source: inspired by a baseline of Drencheva et al. 2025, arXiv 2503.01838, whose text was not read in full.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.core.matching.attack import MatchingAttack, MatchingConfig
from attacks.core.matching.comparison import GeneralComparison
from attacks.core.matching.descent import RestartResult, Search
from attacks.core.matching.simulated_client import SimulatedClient
from attacks.core.matching.terms import PriorChoice, prior_settings
from attacks.core.matching.unknowns import Values
from attacks.graphs._blocks import too_many_kinds
from fedsim.core.hooks import Effort, Tables
from fedsim.core.nets.graph_networks import GraphNetwork
from fedsim.core.registry import attack
from fedsim.core.types import Masks, Modality, Observation, Reconstruction


class GraphMatchingConfig(MatchingConfig):
    """Settings of the search."""

    priors: tuple[PriorChoice, ...] = prior_settings({})
    kinds: int = Field(default=5, ge=1, description="columns of a node's kind; its other features count neighbours")


class _SoftGraphs(GeneralComparison):
    """Gradients at soft graphs that are parametrised by logits."""

    def __init__(self, client: SimulatedClient, observations: Sequence[Observation], kinds: int) -> None:
        super().__init__(client, observations)
        self._kinds = kinds

    def gradient(self, inputs: Tensor, masks: Masks, labels: Tensor, others: Values, victim: int) -> tuple[Tensor, ...]:
        return super().gradient(_soft(inputs, self._kinds), masks, labels, others, victim)


@final
@attack(
    "graph-matching",
    summary="soft nodes and edges with the closest gradient, then rounded",
    paper="2503.01838",
    fidelity="inspired",
    deviates="cosine distance; the number of nodes is the largest",
)
class GraphMatching(MatchingAttack[GraphMatchingConfig]):
    """Descends from random logits."""

    effort: ClassVar[Effort] = "descent"
    modalities: ClassVar[frozenset[Modality]] = frozenset({"graphs"})
    example: ClassVar[Tables] = {
        "data": {"name": "made-molecules", "molecules": 40, "atoms": 6},
        "model": {"name": "gat", "width": 32},
        "attacks": [{"max_iterations": 10}],
    }

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse models that are not graph networks, and more kinds than features."""
        if not isinstance(observation.model, GraphNetwork):
            return "it needs a network of graphs (`GraphNetwork`)"
        return too_many_kinds(self.config.kinds, observation) or super().not_applicable(observation)

    def comparison(self, observations: Sequence[Observation], search: Search) -> GeneralComparison:
        """Return gradients at soft graphs."""
        return _SoftGraphs(self.simulated_client(observations[0]), observations, self.config.kinds)

    def box(self, observation: Observation) -> tuple[Tensor, Tensor] | None:
        """Return None: logits are unbounded."""
        return None

    def report(
        self, observation: Observation, rows: Sequence[RestartResult], labels: Tensor, path: str
    ) -> Reconstruction:
        """Return the rounded graphs of the best row, without masks: nodes have no order."""
        guess = super().report(observation, rows, labels, path)
        return replace(guess, inputs=_rounded(_soft(guess.inputs, self.config.kinds), self.config.kinds), masks=None)


def _soft(logits: Tensor, kinds: int) -> Tensor:
    """Return soft graphs (B, n, f + n) from logits of the same shape."""
    nodes = logits.shape[-2]
    features, joins = logits[..., :-nodes], logits[..., -nodes:]
    parts = [part.softmax(-1) for part in (features[..., :kinds], features[..., kinds:])]
    joined = (joins + joins.transpose(-1, -2)).sigmoid() * (1 - torch.eye(nodes).to(logits))
    return torch.cat([*parts, joined], -1)


def _rounded(graphs: Tensor, kinds: int) -> Tensor:
    """Return the most likely kinds, the joins above 0.5, and the degrees that follow."""
    nodes = graphs.shape[-2]
    features = graphs.shape[-1] - nodes
    joined = (graphs[..., -nodes:] > 0.5).to(graphs.dtype)  # noqa: PLR2004 - halfway
    degrees = torch.eye(nodes + 1).to(graphs)[joined.sum(-1).long()][..., 1 : features - kinds + 1]
    fill = degrees.new_zeros((*degrees.shape[:-1], max(0, features - kinds - degrees.shape[-1])))
    return torch.cat([torch.eye(kinds).to(graphs)[graphs[..., :kinds].argmax(-1)], degrees, fill, joined], -1)
