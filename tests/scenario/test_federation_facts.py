"""What is public about a federation, and what its mechanisms state, from scenarios whose numbers are known."""

from collections.abc import Callable
from typing import Any

import pytest

from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from fedsim.scenario.federation_facts import FederationFacts

Build = Callable[..., Scenario]


@pytest.fixture
def facts(scenario: Build) -> Callable[..., FederationFacts]:
    return lambda **tables: worlds.build(scenario(**tables)).facts


def test_rules_hold_the_numbers_of_the_scenario_and_the_extremes_of_the_shares(
    facts: Callable[..., FederationFacts],
) -> None:
    own = facts(
        federation={"clients": 5, "rounds": 3, "batch_size": 16, "algorithm": "fedavg", "local_epochs": 1},
        partition={"scheme": "dirichlet", "alpha": 1.0},
        components=[{"name": "fedprox"}],
    )
    federation, sizes = own.federation, own.data.sizes
    assert (federation.clients, federation.rounds, federation.batch_size, federation.algorithm) == (5, 3, 16, "fedavg")
    assert (federation.examples, federation.most_examples) == (min(sizes), max(sizes))
    assert federation.steps == -(-max(sizes) // 16)
    assert (federation.shape, federation.classes) == ((1, 8, 8), 10)
    assert federation.loss_terms == ("FedProx",)
    assert (federation.hides_updates, federation.smallest_sum) == (False, 1)


@pytest.mark.parametrize(
    ("participation", "expected"),
    [({}, 4), ({"cohort": 3}, 3), ({"fraction": 0.5}, 2), ({"sampling": "poisson", "fraction": 0.3}, 1.2)],
)
def test_so_many_clients_are_asked_on_average(
    facts: Callable[..., FederationFacts], participation: dict[str, Any], expected: float
) -> None:
    assert facts(participation=participation).expected_participants == pytest.approx(expected)


@pytest.mark.parametrize(
    ("tables", "remembers"),
    [
        ({}, False),
        ({"federation": {"keep_optimizer_state": True}}, True),
        ({"defenses": [{"name": "clipping", "norm": 1.0}]}, False),
        ({"defenses": [{"name": "error-feedback"}]}, True),
    ],
)
def test_a_client_remembers_where_its_optimizer_or_a_hook_does(
    facts: Callable[..., FederationFacts], counting: Any, tables: dict[str, Any], remembers: bool
) -> None:
    assert facts(**tables).keeps_state is remembers


def test_mechanisms_are_stated_by_the_defense_and_by_the_rule_that_are_them(
    facts: Callable[..., FederationFacts],
) -> None:
    plain = facts(defenses=[{"name": "gradient-noise", "scale": 0.1}])
    assert plain.client_mechanisms == {}
    assert plain.server_mechanism is None
    private = facts(
        defenses=[{"name": "dp-sgd"}], federation={"sampling": "poisson", "batch_size": 4, "algorithm": "fedavg"}
    )
    assert [*private.client_mechanisms] == ["dp-sgd"]
    central = facts(aggregation={"name": "dp-fedavg"}, participation={"sampling": "poisson", "fraction": 0.5})
    assert central.server_mechanism is not None
    assert central.server_mechanism.unit == "client"
