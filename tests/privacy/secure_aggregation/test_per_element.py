"""Sums that are told only where enough clients contributed, against counts by hand and against the plain sum."""

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import per_element as benchmark
from fedsim.core.errors import FedsimError, ScenarioError
from fedsim.privacy.secure_aggregation.config import SecureAggregation
from fedsim.privacy.secure_aggregation.ideal import ideal_aggregate
from fedsim.privacy.secure_aggregation.per_element import tell, with_contributions
from fedsim.privacy.secure_aggregation.quantisation import weighted_levels, weighted_mean
from fedsim.scenario import world as worlds
from fedsim.threat.replay import replay
from tests.experiment.running import Build
from tests.federating import run

LEAST = 3
CONFIG = SecureAggregation(least_contributors=LEAST, threshold=0.6)
PLAIN = SecureAggregation(threshold=0.6)


def sparse(clients: int, size: int, seed: int = 0) -> Tensor:
    """Updates (clients, size) of which a half is zero."""
    numbers = torch.Generator().manual_seed(seed)
    values = torch.randn((clients, size), generator=numbers)
    return values * (torch.rand((clients, size), generator=numbers) < 0.5)


def levels(update: Tensor, weight: int, client: int) -> Tensor:
    return weighted_levels(
        torch.cat((update, update.new_zeros(1))), weight, PLAIN, torch.Generator().manual_seed(client)
    )


@pytest.mark.parametrize("weights", [(1, 1, 1, 1, 1, 1), (3, 0, 2, 5, 1, 4)])
def test_what_enough_clients_changed_is_the_plain_sum_and_the_rest_is_zero(weights: tuple[int, ...]) -> None:
    updates = sparse(6, 200)
    own = [levels(update, weight, c) for c, (update, weight) in enumerate(zip(updates, weights, strict=True))]
    plain = ideal_aggregate(enumerate(own), 6, PLAIN)
    uploads = [with_contributions(level, update) for level, update in zip(own, updates, strict=True)]
    aggregate = ideal_aggregate(enumerate(uploads), 6, CONFIG)
    by_hand = torch.tensor(
        [sum(bool(updates[c, e] != 0) and weights[c] > 0 for c in range(6)) >= LEAST for e in range(200)]
    )
    assert 0 < int(by_hand.sum()) < len(by_hand)
    assert aggregate.disclosed_mask is not None
    assert torch.equal(aggregate.disclosed_mask, by_hand)
    assert torch.equal(aggregate.total[:-2][by_hand], plain.total[:-2][by_hand])
    assert not aggregate.total[:-2][~by_hand].any()
    assert torch.equal(aggregate.total[-2:], plain.total[-2:])
    assert aggregate.participants == plain.participants
    means = (
        weighted_mean(aggregate.total, PLAIN).mean[:-1][by_hand],
        weighted_mean(plain.total, PLAIN).mean[:-1][by_hand],
    )
    assert torch.equal(*means)


def test_nothing_that_is_told_depends_on_a_concealed_value() -> None:
    updates = sparse(6, 50)
    alone = torch.zeros(6, 50)
    alone[2, 7] = 1.0
    updates[:, 7] = 0.0
    told: list[tuple[Tensor, Tensor | None]] = []
    for value in (0.0, 1.0, -5.0):
        changed = updates + value * alone
        uploads = [with_contributions(levels(own, 1, c), own) for c, own in enumerate(changed)]
        aggregate = ideal_aggregate(enumerate(uploads), 6, CONFIG)
        told.append((aggregate.total, aggregate.disclosed_mask))
    assert all(torch.equal(told[0][0], total) and torch.equal(told[0][1], kept) for total, kept in told)  # type: ignore[arg-type]


def test_a_sum_without_contributions_is_refused_and_one_contributor_tells_all() -> None:
    with pytest.raises(FedsimError, match="holds no contributions"):
        tell(torch.zeros(7, dtype=torch.int64), 2, 40)
    total = torch.arange(7)
    assert tell(total, 1, 40) == (total, None)


TABLES: dict[str, Any] = {
    "federation": {"algorithm": "fedsgd", "clients": 4, "rounds": 2, "batch_size": 2},
    "threat": {"view": "sum", "rounds": [2]},
}


@pytest.mark.parametrize("engine", ["local", "vectorized"])
def test_a_federation_steps_only_where_enough_clients_contributed_and_its_replay_matches(
    engine: str, scenario: Build
) -> None:
    federation = {**TABLES["federation"], "engine": engine}
    built = scenario(**{**TABLES, "federation": federation}, secure_aggregation={"least_contributors": 4})
    journal = run(built)
    world, (entry,) = worlds.build(built), journal.entries
    assert replay(world, entry).matches
    first = entry.update.tensors["1.weight"]
    assert 0.0 < float((first == 0).double().mean()) < 1.0  # pixels that are black for one of the clients
    plain = run(scenario(**{**TABLES, "federation": federation}, secure_aggregation={})).entries[0].update.tensors
    assert not torch.equal(first, plain["1.weight"])


def test_guarantees_do_not_go_with_it(scenario: Build) -> None:
    private = scenario(
        **TABLES,
        secure_aggregation={"least_contributors": 2},
        defenses=[{"name": "local-dp"}],
    )
    with pytest.raises(ScenarioError, match=r"least_contributors is 2, and a private mechanism is in use"):
        worlds.build(private).check()


def test_a_row_of_one_client_is_told_by_the_plain_sum_and_to_colluding_clients_and_else_not() -> None:
    control, safe, informed = (benchmark.images_read("sparse", least, c, 0, 4) for least, c in ((1, 0), (2, 0), (2, 1)))
    assert sum(control) > len(control) / 2
    assert not any(safe)
    assert informed == control


def test_a_cumulative_imprint_is_read_all_the_same() -> None:
    assert sum(benchmark.images_read("dense", 2, 0, 0, 4)) > 0
