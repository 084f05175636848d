"""graph-spans: test which nodes and blocks (nodes with their neighbours) the gradient spans, and assemble the graph.

Idea: rows of the first layer's gradient span the nodes' features. Rows of the second layer's gradient span the nodes'
    hidden values, which depend only on a node and its neighbours. Both lists of candidates are finite. A search
    assembles graphs from the blocks that passed.
Equation: dW_l = M_l H_(l-1), so each row h of H_(l-1) has |h - P h| = 0 with P the projector on the rows of dW_l.
Assumes: honest-but-curious server, a gradient of a single graph, features of a kind and a degree; with dropout its
    rate, and two layers.
Recovers: the graph up to a renumbering, its label and masks. Only a graph with the client's own gradient is returned.
Fails: more nodes than hidden units; (1 - p)^nodes too small for the number of samples. Nodes that pass are no leak by
    themselves, since many absent nodes pass too.
Source: inspired by GRAIN, Drencheva et al. 2025, arXiv 2503.01838, whose text was not read in full.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import ClassVar, cast, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.core.gradient_distance import doubts, gradient_distance, may_be_exact
from attacks.core.outlooks import outlook_of
from attacks.core.preconditions import one_gradient_only
from attacks.core.results import labels_or_unknown, no_guess
from attacks.core.spans import span_of
from attacks.graphs._blocks import (
    Alphabet,
    Candidates,
    Star,
    alphabet_of,
    candidates_of,
    consistent,
    features_of,
    missing_direction,
    nodes_inside,
    too_many_kinds,
)
from attacks.graphs._gluing import Gluing, Partial
from attacks.graphs._masked_blocks import draws_needed, masked_inside
from attacks.graphs._second_masks import MOST_NODES, add_masks, masks_of
from fedsim.core.hooks import Attack, CostEstimate, Effort, Tables
from fedsim.core.nets.graph_networks import GraphNetwork
from fedsim.core.registry import attack
from fedsim.core.types import Config, Masks, Modality, Observation, OnStep, Reconstruction, Step

_LAYERS = 2
_SAME = 1e-10  # 1 - cosine at the true graph: rounding enters squared, and another graph may be at 1e-7
_DIRECTIONS = 2  # limit of directions missing in the span of the second layer's inputs
_NUMBERING = ("every mask is known too, in the numbering of the nodes that the guess has",)
_OFTEN = 4  # multiple of the samples that suffice if every sample is well-conditioned


class GraphSpansConfig(Config):
    """Settings of the span tests and of the search."""

    kinds: int = Field(default=5, ge=1, description="columns of a node's kind; its other features count neighbours")
    least: float = Field(default=1e-7, gt=0, description="share of the largest singular value that is rounding")
    node_tolerance: float = Field(default=1e-3, gt=0, description="share of a node's features outside the span")
    block_tolerance: float = Field(default=1e-2, gt=0, description="share of a block's values outside the span")
    states: int = Field(default=30000, ge=1, description="most graphs, finished or not, that are looked at")
    draws: int = Field(default=20000, ge=1, description="most draws of entries that dropout may have kept")


@dataclass(frozen=True)
class _Search:
    """State of a search for one graph."""

    observation: Observation
    network: GraphNetwork
    nodes: Alphabet
    candidates: Candidates
    labels: Tensor
    diagnostics: dict[str, float]
    generator: torch.Generator
    on_step: OnStep


@final
@attack(
    "graph-spans",
    summary="nodes and blocks in the spans of two layers, joined to the whole graph",
    tier="research",
    paper="2503.01838",
    fidelity="inspired",
    deviates="reads through dropout, adds missing directions, and judges by the gradient",
)
class GraphSpans(Attack[GraphSpansConfig]):
    """Recovers a graph from the gradients of the first two layers."""

    effort: ClassVar[Effort] = "search"
    modalities: ClassVar[frozenset[Modality]] = frozenset({"graphs"})
    example: ClassVar[Tables] = {
        "data": {"name": "made-molecules", "molecules": 40, "atoms": 6},
        "model": {"name": "gat", "width": 32},
        "federation": {"batch_size": 1},
    }

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse several graphs or steps, and networks without the required layers or shared gradients."""
        network = observation.model
        if not isinstance(network, GraphNetwork) or len(network.layers) < _LAYERS:
            return "it needs a network of two graph layers or more (`GraphNetwork`)"
        if (observation.batch_size or 1) > 1:
            return f"the update mixes {observation.batch_size} graphs; the search joins the blocks of a single graph"
        if observation.sites and (len(network.layers) > _LAYERS or not observation.sites[0].rate):
            return "with dropout it needs the rate and a network of two layers"
        missing = [name for name in _read(network) if name not in observation.update.tensors]
        if missing:
            return f"'{missing[0]}' is not shared"
        return too_many_kinds(self.config.kinds, observation) or one_gradient_only(observation)

    def outlook(self, observation: Observation) -> CostEstimate:
        """Expect forward passes on parts of the graph."""
        return outlook_of(observation, 10.0, 0.7, "spans show nodes and blocks, which join to the graph")

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Return the first graph that has the observed gradient."""
        first, second = (
            span_of(gradient.double(), self.config.least, len(gradient))[0]
            for gradient in (observation.update.tensors[f"layers.{layer}.linear.weight"] for layer in range(_LAYERS))
        )
        alphabet = alphabet_of(self.config.kinds, features_of(observation))
        nodes = nodes_inside(alphabet, first, self.config.node_tolerance)
        diagnostics = {"rank of the first layer": float(len(first)), "rank of the second layer": float(len(second)),
                 "nodes that passed": float(len(nodes.degrees))}  # fmt: skip
        if len(nodes.degrees) == 0:
            return no_guess(observation, "no node lies in the span of the first layer", diagnostics=diagnostics)
        network = cast("GraphNetwork", observation.working_copy(dtype=torch.float64))
        candidates = candidates_of(network, nodes)
        labels = labels_or_unknown(observation, 1)
        search = _Search(observation, network, nodes, candidates, labels, diagnostics, generator, on_step)
        attempts = self._search_under_dropout if observation.sites else self._plain
        closed, best = 0, math.inf
        for closed, (guess, masks) in enumerate(attempts(search, second), 1):
            distance = gradient_distance(observation, guess, labels, masks)
            best = min(best, distance)
            on_step(Step(0, closed, self.config.states, distance, best, guess))
            if distance < _SAME:
                return self._result(search, guess, masks, distance, closed)
        return no_guess(
            observation,
            f"none of {closed} closed graphs has the gradient",
            iterations=max(closed, 1),
            diagnostics=diagnostics,
        )

    def _plain(self, search: _Search, basis: Tensor) -> Iterator[tuple[Tensor, Masks]]:
        """Yield closed graphs of the blocks in the span, then in the span extended by one and by two directions."""
        for directions in range(_DIRECTIONS + 1):
            blocks = search.candidates.inside(basis, self.config.block_tolerance)
            search.diagnostics["blocks that passed"], search.diagnostics["directions added"] = (
                float(len(blocks)),
                float(directions),
            )
            for graph in self._find_closed_graphs(search, blocks):
                yield _matrix(graph, search), ()
            if directions == _DIRECTIONS:
                return
            direction = missing_direction(search.candidates, basis, self.config.block_tolerance)
            if direction is None:
                return
            basis = torch.cat([basis, direction])

    def _search_under_dropout(self, search: _Search, basis: Tensor) -> Iterator[tuple[Tensor, Masks]]:
        """Yield closed graphs of the blocks that lie in the span under some mask, with masks of both layers."""
        rate = search.observation.sites[0].rate
        draws = min(draws_needed(len(basis), rate), self.config.draws)
        blank = torch.zeros(1, *search.observation.spec.shape)
        masks: dict[Star, list[Tensor]] = {}
        done = count()

        def on_draw() -> None:
            search.on_step(Step(0, next(done) + 1, _OFTEN * draws, math.inf, math.inf, blank))

        for attempt in range(1, _OFTEN + 1):
            passed = masked_inside(search.candidates, basis, rate, draws, search.generator, on_draw)
            add_masks(masks, search.candidates.blocks, passed)
            search.diagnostics["draws"], search.diagnostics["blocks that passed"] = (
                float(attempt * draws),
                float(len(masks)),
            )
            for graph in self._find_closed_graphs(search, list(masks)):
                if len(graph.kinds) > MOST_NODES:
                    continue
                guess, blocks = _matrix(graph, search), [graph.block(node) for node in range(len(graph.kinds))]
                for mask_pair in masks_of(search.observation, search.network, guess, blocks, masks):
                    yield guess, mask_pair

    def _find_closed_graphs(self, search: _Search, blocks: list[Star]) -> Iterator[Partial]:
        limit = search.observation.spec.shape[0]
        gluing = Gluing(consistent(blocks), search.nodes.degrees.tolist(), limit, self.config.states)
        return gluing.find_closed_graphs()

    def _result(self, search: _Search, guess: Tensor, masks: Masks, distance: float, closed: int) -> Reconstruction:
        observation = search.observation
        return Reconstruction.of(
            inputs=guess,
            labels=search.labels,
            objective=distance,
            iterations=closed,
            stop_reason="a graph has the client's gradient",
            notes=(*(_NUMBERING if masks else ()), *doubts(observation)),
            diagnostics=search.diagnostics,
            is_exact=may_be_exact(observation, distance),
        )


def _read(network: GraphNetwork) -> list[str]:
    """Return the names of the required parameters' gradients."""
    return [*(f"layers.{layer}.linear.weight" for layer in range(_LAYERS)), "head.weight", "head.bias"]


def _matrix(graph: Partial, search: _Search) -> Tensor:
    """Return a graph in the network's input format, shape (1, n, f + n)."""
    matrix = torch.zeros(1, *search.observation.spec.shape)
    features = search.nodes.features.shape[1]
    matrix[0, : len(graph.kinds), :features] = search.nodes.features[list(graph.kinds)].float()
    for first, second in graph.joins:
        matrix[0, first, features + second] = matrix[0, second, features + first] = 1
    return matrix
