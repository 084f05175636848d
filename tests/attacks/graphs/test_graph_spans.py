"""Whole graphs from one gradient, with dropout and without."""

from typing import Any

import pytest
import torch

from attacks.core.spans import span_of
from attacks.graphs._blocks import Star, alphabet_of, candidates_of, shares_outside
from attacks.graphs._gluing import Gluing
from attacks.graphs._masked_blocks import draws_needed
from fedsim.core import registry, seeding
from fedsim.core.nets.graph_networks import graphs_of
from fedsim.core.types import InputSpec, Observation, Reconstruction
from fedsim.metrics.graphs import graph_exact
from fedsim.threat.observe import observe
from tests.federating import scenario
from tests.tasks.targets import victim

KNOWS = ("batch-size", "dropout-rates")


def seen(network: str, client: int, rate: float = 0.0, **data: Any) -> tuple[Observation, torch.Tensor]:
    """What a server sees of a client with one molecule, and the molecule."""
    tables = {
        "data": {"name": "made-molecules", "molecules": 60, "seed": client, **data},
        "model": {"name": network, "dropout": rate},
    }
    one = victim(scenario, 1, **tables)
    return observe(one, KNOWS), one.truth.batches[0].inputs[0]  # type: ignore[arg-type]


def searched(observation: Observation, **settings: Any) -> Reconstruction:
    method = registry.get("attack", "graph-spans")
    return method.make(method.config(**settings))(observation, seeding.generator(0, "test"))


@pytest.mark.parametrize(("network", "client"), [("gat", 0), ("gat", 1), ("gcn", 0), ("gcn", 1), ("gcn", 2)])
def test_a_graph_comes_back_whole(network: str, client: int) -> None:
    observation, molecule = seen(network, client)
    guess = searched(observation)
    assert graph_exact(guess.inputs[0], molecule) == 1.0
    assert guess.is_exact


@pytest.mark.parametrize(("network", "rate"), [("gat", 0.2), ("gcn", 0.2)])
def test_dropout_of_hidden_values_does_not_hide_it(network: str, rate: float) -> None:
    observation, molecule = seen(network, 0, rate)
    guess = searched(observation)
    assert graph_exact(guess.inputs[0], molecule) == 1.0
    assert guess.is_exact


def test_a_graph_of_another_client_is_not_taken_for_it() -> None:
    """Blocks of one gradient, judged by another one: no graph has that, so none is returned."""
    observation, _ = seen("gat", 0)
    other, _ = seen("gat", 1)
    mixed = {**observation.update.tensors, "head.weight": other.update.tensors["head.weight"]}
    observation.update.tensors.update(mixed)  # type: ignore[attr-defined]
    guess = searched(observation)
    assert len(guess.inputs) == 0
    assert "has the gradient" in guess.stop_reason


def test_rows_of_what_layers_read_lie_in_the_span_of_their_gradients() -> None:
    observation, molecule = seen("gat", 0)
    graphs = graphs_of(molecule[None].double())
    network = observation.model.double()
    hidden = network.apply_layer(0, graphs.features, graphs).detach()
    for layer, rows in enumerate((graphs.features[0], hidden[0])):
        basis = span_of(observation.update.tensors[f"layers.{layer}.linear.weight"].double(), 1e-7, 99)[0]
        real = rows[graphs.is_node[0] > 0]
        assert float(shares_outside(real, basis).max()) < 1e-3  # the update is in single precision


def test_a_path_of_five_has_nodes_outside_the_span_of_a_gcn_and_averages_inside() -> None:
    """A + I of a path of 2 mod 3 nodes has no inverse, so its span lacks a direction."""
    around = torch.eye(5).double() + torch.diag(torch.ones(4).double(), 1) + torch.diag(torch.ones(4).double(), -1)
    rows = torch.randn(5, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradient = torch.randn(8, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64) @ around @ rows
    basis = span_of(gradient, 1e-9, len(gradient))[0]
    assert len(basis) == 4
    assert float(shares_outside(rows, basis).max()) > 0.1
    assert float(shares_outside(around @ rows, basis).max()) < 1e-9  # double precision leaves about 1e-14


def test_the_list_of_blocks_is_whole() -> None:
    """Three kinds of one neighbour and three of two: 3 * 6 + 3 * 21 multisets."""
    alphabet = alphabet_of(3, 5)
    assert alphabet.features.shape == (6, 5)
    method = registry.get("model", "gat")
    network = method.make(method.config(width=4), InputSpec((4, 9), 2, (0.0,), (1.0,))).double()
    candidates = candidates_of(network, alphabet)
    assert len(candidates.blocks) == len(set(candidates.blocks)) == 3 * 6 + 3 * 21
    assert candidates.values.shape == (81, 4)


def test_blocks_are_glued_to_every_graph_that_they_make_and_to_no_other() -> None:
    """Ends of one kind and middles of another, with two neighbours: rings of middles and one path each length."""
    blocks = [Star(0, (1,)), Star(1, (0, 1)), Star(1, (1, 1)), Star(1, (0, 0))]
    closed = {(len(graph.kinds), len(graph.joins)) for graph in Gluing(blocks, [1, 2], 5, 10_000).find_closed_graphs()}
    assert closed == {(3, 2), (4, 3), (5, 4), (3, 3), (4, 4), (5, 5)}


def test_draws_that_hit_only_kept_entries() -> None:
    """A chance of 1 in 8 misses 1,000 times in 1,000,000 after log(0.001) / log(7/8) draws."""
    assert draws_needed(3, 0.5) == 52


@pytest.mark.parametrize(
    ("tables", "reason"),
    [({"federation": {"batch_size": 2}}, "2 graphs"), ({"model": {"name": "gat", "depth": 1}}, "two graph layers")],
)
def test_what_it_cannot_read_is_refused(tables: dict[str, Any], reason: str) -> None:
    size = tables.get("federation", {}).get("batch_size", 1)
    model = tables.get("model", {"name": "gat"})
    one = victim(scenario, size, data={"name": "made-molecules", "molecules": 60}, model=model)
    method = registry.get("attack", "graph-spans")
    verdict = method.make(method.config()).applicable(observe(one, KNOWS))  # type: ignore[arg-type]
    assert not verdict.holds
    assert reason in verdict.reason
