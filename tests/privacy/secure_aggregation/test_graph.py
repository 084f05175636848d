"""The graph of neighbours: regular, mutual, connected."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.core import seeding
from fedsim.privacy.secure_aggregation.graph import neighbourhoods


def drawn(clients, neighbours, place=0):
    return neighbourhoods(clients, neighbours, seeding.generator(5, "graph", place))


def reachable(graph, start):
    seen, edge = {start}, [start]
    while edge:
        fresh = set(graph[edge.pop()]) - seen
        seen |= fresh
        edge += fresh
    return seen


@settings(deadline=None, max_examples=60)
@given(
    clients=st.lists(st.integers(0, 10**6), min_size=2, max_size=40, unique=True),
    half=st.integers(1, 10),
    place=st.integers(0, 99),
)
def test_a_ring_is_regular_mutual_and_stays_connected_without_one_client(clients, half, place):
    graph = drawn(clients, 2 * half, place)
    assert set(graph) == set(clients)
    for client, neighbours in graph.items():
        assert len(set(neighbours)) == len(neighbours) == min(2 * half, len(clients) - 1)
        assert client not in neighbours
        assert all(client in graph[neighbour] for neighbour in neighbours)
    assert reachable(graph, clients[0]) == set(clients)
    gone = clients[-1]
    rest = {c: [n for n in neighbours if n != gone] for c, neighbours in graph.items() if c != gone}
    assert reachable(rest, clients[0]) == set(clients) - {gone}


@pytest.mark.parametrize("neighbours", [None, 6, 8])
def test_with_enough_neighbours_everyone_knows_everyone(neighbours):
    graph = drawn(range(7), neighbours)
    assert all(graph[client] == tuple(sorted(set(range(7)) - {client})) for client in range(7))


def test_the_order_follows_from_the_seed():
    assert drawn(range(30), 4, 1) == drawn(range(30), 4, 1)
    assert drawn(range(30), 4, 1) != drawn(range(30), 4, 2)
