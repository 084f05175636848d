"""Declared participation: the process against its probabilities, and runs against a bare loop over who counted."""

import math
from collections import Counter
from typing import Any

import pytest
import torch
from scipy.stats import binom, norm

from fedsim.core.errors import FedsimError
from fedsim.experiment.runner import model_hash
from fedsim.federation import participation
from fedsim.scenario import Scenario
from tests.experiment.running import Build
from tests.federating import by_hand, run, who_counted

PLACES = [(round_, client) for round_ in range(1, 41) for client in range(100)]


def likely(count: int, n: int, probability: float) -> bool:
    """Whether a count lies where all but one of a hundred thousand binomial counts lie."""
    low, high = binom.interval(1 - 1e-5, n, probability)
    return low <= count <= high


def fates(scenario: Scenario, steps: int = 1) -> dict[tuple[int, int], participation.ClientFailure | None]:
    return {place: participation.client_failure(scenario, *place, steps) for place in PLACES}


def test_a_fixed_cohort_has_its_size_no_client_twice_and_every_client_alike(scenario: Build) -> None:
    built = scenario(federation={"clients": 20}, participation={"cohort": 5})
    cohorts = [participation.cohort(built, round_) for round_ in range(1, 1001)]
    assert all(len(set(cohort)) == len(cohort) == 5 and tuple(sorted(cohort)) == cohort for cohort in cohorts)
    counter = Counter(client for cohort in cohorts for client in cohort)
    assert all(likely(counter[client], 1000, 0.25) for client in range(20))


def test_a_fraction_is_rounded_to_at_least_one_client(scenario: Build) -> None:
    sizes = {
        fraction: len(
            participation.cohort(scenario(federation={"clients": 20}, participation={"fraction": fraction}), 1)
        )
        for fraction in (0.001, 0.3, 0.52, 1.0)
    }
    assert sizes == {0.001: 1, 0.3: 6, 0.52: 10, 1.0: 20}


@pytest.mark.paper_step("dp-fedavg", "clients sampled independently")
@pytest.mark.parametrize(("size", "rate"), [({"fraction": 0.13}, 0.13), ({"cohort": 30}, 0.3)])
def test_poisson_cohorts_follow_the_rate_independently(scenario: Build, size: dict[str, Any], rate: float) -> None:
    built = scenario(federation={"clients": 100}, participation={"sampling": "poisson", **size})
    cohorts = [participation.cohort(built, round_) for round_ in range(1, 201)]
    assert built.sampling_rate == rate
    assert likely(sum(map(len, cohorts)), 100 * 200, rate)
    together = sum(0 in cohort and 1 in cohort for cohort in cohorts)
    assert likely(together, 200, rate**2)
    sizes = torch.tensor([float(len(cohort)) for cohort in cohorts])
    assert 0.7 < sizes.var().item() / (100 * rate * (1 - rate)) < 1.4  # chi-squared, 199 degrees: 99.99% inside


@pytest.mark.parametrize("sampling", ["fixed", "poisson"])
def test_only_available_clients_are_asked(scenario: Build, sampling: str) -> None:
    built = scenario(federation={"clients": 100}, participation={"availability": 0.4, "sampling": sampling})
    cohorts = [participation.cohort(built, round_) for round_ in range(1, 101)]
    assert likely(sum(map(len, cohorts)), 100 * 100, 0.4)
    few = scenario(federation={"clients": 100}, participation={"availability": 0.4, "cohort": 10})
    assert all(
        len(participation.cohort(few, r)) == 10 and set(participation.cohort(few, r)) <= set(cohorts[r - 1])
        for r in range(1, 101)
    )


def test_every_kind_of_loss_has_its_declared_frequency(scenario: Build) -> None:
    built = scenario(
        federation={"clients": 100},
        participation={"drop_before": 0.1, "drop_during": 0.2, "drop_after": 0.05, "crash": 0.15},
    )
    counter = Counter(None if loss is None else (loss.cause, loss.why) for loss in fates(built).values())
    expected: dict[tuple[str, str] | None, float] = {
        ("dropout", "dropped out before training"): 0.1,
        ("dropout", "dropped out during training"): 0.2,
        ("dropout", "dropped out after training"): 0.05,
        ("crash", "crashed"): 0.15,
        None: 0.5,
    }
    assert counter.keys() == expected.keys()
    assert all(likely(counter[kind], len(PLACES), probability) for kind, probability in expected.items())


def test_named_clients_crash_in_every_round_and_no_other_does(scenario: Build) -> None:
    built = scenario(federation={"clients": 100}, participation={"always_crash": [3, 77]})
    crashed = {place for place, loss in fates(built).items() if loss is not None and loss.cause == "crash"}
    assert crashed == {(round_, client) for round_, client in PLACES if client in (3, 77)}


def test_durations_are_log_normal_and_slow_clients_stay_slow(scenario: Build) -> None:
    built = scenario(
        federation={"clients": 100},
        participation={"step_seconds": 2.0, "jitter": 0.3, "slow_fraction": 0.2, "slow_factor": 1000.0},
    )
    seconds = {place: participation.duration(built, *place, 5) for place in PLACES}
    slow = {place for place, value in seconds.items() if value > 300}
    slow_clients = {client for _, client in slow}
    assert slow == {(round_, client) for round_, client in PLACES if client in slow_clients}
    assert likely(len(slow_clients), 100, 0.2)
    logs = torch.tensor([math.log(v / 10 / (1000 if place in slow else 1)) for place, v in seconds.items()])
    for quantile in (0.05, 0.5, 0.9):
        below = int((logs <= 0.3 * norm.ppf(quantile)).sum())
        assert likely(below, len(PLACES), quantile)


@pytest.mark.slow
def test_late_updates_follow_the_law_of_the_durations(scenario: Build) -> None:
    built = scenario(federation={"clients": 100}, participation={"jitter": 0.5, "deadline": 4.0})
    late = [loss for loss in fates(built, steps=3).values() if loss is not None]
    assert {loss.cause for loss in late} == {"late"}
    assert likely(len(late), len(PLACES), norm.sf(math.log(4 / 3) / 0.5))
    assert "the deadline is 4" in late[0].why
    punctual = scenario(federation={"clients": 100}, participation={"jitter": 0.0, "deadline": 3.0})
    assert set(fates(punctual, steps=3).values()) == {None}
    assert None not in fates(punctual, steps=4).values()


def test_decisions_depend_on_neither_the_order_of_calls_nor_on_others(scenario: Build) -> None:
    settings = {"drop_before": 0.3, "crash": 0.2, "deadline": 1.2}
    built = scenario(federation={"clients": 100}, participation=settings)
    expected = fates(built)
    order = torch.randperm(len(PLACES), generator=torch.Generator().manual_seed(1)).tolist()
    assert all(participation.client_failure(built, *PLACES[i], 1) == expected[PLACES[i]] for i in order)
    fewer = scenario(federation={"clients": 10}, participation={**settings, "cohort": 2, "always_crash": [9]})
    assert all(participation.client_failure(fewer, r, c, 1) == expected[r, c] for r, c in PLACES if c < 9)
    other = scenario(seed=4, federation={"clients": 100}, participation=settings)
    assert fates(other) != expected


EVENTFUL = {
    "drop_before": 0.1,
    "drop_during": 0.1,
    "drop_after": 0.1,
    "crash": 0.1,
    "always_crash": [2],
    "deadline": 6.0,
    "slow_fraction": 0.2,
}


@pytest.mark.parametrize("engine", ["local", "vectorized"])
def test_who_is_lost_is_declared_and_recorded_alike_on_every_engine(scenario: Build, engine: str) -> None:
    federation = {"clients": 12, "rounds": 6, "algorithm": "fedavg", "local_steps": 4, "batch_size": 4}
    built = scenario(federation={**federation, "engine": engine}, participation={**EVENTFUL, "fraction": 0.75})
    rounds = run(built).rounds
    for record in rounds:
        expected = {c: participation.client_failure(built, record.round, c, 4) for c in record.cohort}
        lost = [(f"client {c}", loss.cause, loss.why) for c, loss in expected.items() if loss is not None]
        assert [(failure.subject, failure.cause, failure.reason) for failure in record.failures] == lost
        assert record.participants == tuple(c for c, loss in expected.items() if loss is None)
    assert {failure.cause for record in rounds for failure in record.failures} == {"dropout", "crash", "late"}


@pytest.mark.parametrize("sampling", ["fixed", "poisson"])
def test_a_run_equals_a_bare_loop_over_those_who_counted_bit_by_bit(scenario: Build, sampling: str) -> None:
    built = scenario(
        federation={"clients": 8, "rounds": 5, "algorithm": "fedavg", "local_steps": 4, "batch_size": 4},
        participation={**EVENTFUL, "fraction": 0.6, "sampling": sampling},
    )
    journal = run(built)
    assert any(record.failures for record in journal.rounds)
    assert model_hash(journal.weights) == model_hash(by_hand(built, journal.rounds))
    again = run(built)
    assert model_hash(again.weights) == model_hash(journal.weights)
    assert [r.model_dump_json() for r in again.rounds] == [r.model_dump_json() for r in journal.rounds]


@pytest.mark.parametrize("engine", ["local", "vectorized"])
def test_rounds_in_which_nobody_counts_keep_the_weights_and_the_run_goes_on(scenario: Build, engine: str) -> None:
    built = scenario(
        federation={"clients": 3, "rounds": 12, "engine": engine},
        participation={"sampling": "poisson", "fraction": 0.3, "drop_before": 0.4},
        threat={"rounds": [1, 2, 3]},
        aggregation={"optimizer": {"name": "sgd", "learning_rate": 1.0}},
    )
    journal = run(built)
    counted = [len(who_counted(record)) for record in journal.rounds]
    assert [len(record.cohort) for record in journal.rounds].count(0) > 0
    assert any(record.cohort and not who_counted(record) for record in journal.rounds)
    assert any(counted)
    losses = [record.test_metrics.get("test_loss") for record in journal.rounds]
    for before, after, count in zip(losses, losses[1:], counted[1:], strict=False):
        assert (before == after) == (count == 0)
    assert math.isnan(journal.rounds[counted.index(0)].training_loss)
    if engine == "local":
        assert model_hash(journal.weights) == model_hash(by_hand(built, journal.rounds))


def test_a_declared_crash_does_not_excuse_an_error_of_ones_own(scenario, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("my bug")

    monkeypatch.setattr("fedsim.federation.apps.local_training", broken)

    with pytest.raises(FedsimError, match="every client of the round failed, the first with: ZeroDivisionError"):
        run(scenario(federation={"rounds": 2}, participation={"always_crash": [0]}))


def test_who_is_available_and_who_is_asked_are_two_draws(scenario: Build) -> None:
    """One draw for both would ask every other client, the smaller of the two rates."""
    built = scenario(
        federation={"clients": 1000}, participation={"sampling": "poisson", "fraction": 0.5, "availability": 0.5}
    )
    asked = sum(len(participation.cohort(built, round_)) for round_ in (1, 2, 3, 4))
    assert likely(asked, 4000, 0.25)


@pytest.mark.parametrize("events", [{}, {"drop_before": 0.5}, {"always_crash": [1]}])
def test_the_fates_of_clients_are_those_of_each(events: dict[str, Any], scenario: Build) -> None:
    built = scenario(participation=events)
    together = participation.client_failures(built, 1, (0, 1, 3), lambda client: client + 1)
    assert together == {client: participation.client_failure(built, 1, client, client + 1) for client in (0, 1, 3)}
