"""What a server of secure aggregation learns: the sum, aborted rounds, and what is refused."""

import math
from typing import Any

import pytest
import torch

from fedsim.core.errors import ScenarioError
from fedsim.experiment.runner import model_hash
from fedsim.federation.client import local_training
from fedsim.federation.participation import client_failure
from fedsim.scenario import world as worlds
from fedsim.threat.replay import replay
from tests.experiment.running import Build
from tests.federating import run
from tests.federation.secured import POISSON, SUM, failures, plain, tapped

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"threat": {}}, r"threat.view is 'single-update', but behind secure aggregation .* Set threat.view = 'sum'"),
    ({"aggregation": {"name": "krum"}}, "aggregation.name: 'krum' needs the updates of single clients, and under"),
    (
        {"federation": {"engine": "vectorized"}, "secure_aggregation": {"mode": "masked"}},
        r"mode is 'masked', but the engine 'vectorized' .* Set mode = 'ideal'",
    ),
    ({"participation": {"cohort": 1}}, r"the sum over a single client is its update"),
    ({"threat": {**SUM, "victims": 2}}, r"threat.victims is 2, expected 1"),
    (
        {"federation": {"algorithm": "fedavg"}, "attacks": [{"name": "inverting-gradients"}]},
        r"attacks: .*need federation.algorithm = 'fedsgd'",
    ),
    ({"attacks": [{"name": "closed-form-linear"}]}, "attacks.0.name: 'closed-form-linear' works on single-update"),
    ({"secure_aggregation": {"threshold": 0.5}}, r"secure_aggregation.threshold: .*greater than 0.5"),
]


DROPS = {"drop_before": 0.08, "drop_during": 0.08, "drop_after": 0.08, "deadline": 8.0}


@pytest.mark.parametrize(
    ("drops", "weighted"),
    [({}, False), (DROPS, True)],
)
def test_masked_and_ideal_end_in_the_same_model(scenario: Build, drops: dict[str, Any], weighted: bool) -> None:
    tables: dict[str, Any] = {
        "federation": {"clients": 9, "rounds": 4, "algorithm": "fedavg", "local_epochs": 1, "batch_size": 50},
        "partition": {"scheme": "quantity-skew", "alpha": 3.0},
        "participation": {"cohort": 7, **drops},
        "aggregation": {"name": "mean", "weighted": weighted},
        "threat": {**SUM, "rounds": [4]},
    }
    ideal, masked = (
        run(scenario(**tables, secure_aggregation={"mode": mode, "threshold": 0.55})) for mode in ("ideal", "masked")
    )
    assert model_hash(ideal.weights) == model_hash(masked.weights)
    assert [record.model_dump_json() for record in ideal.rounds] == [
        record.model_dump_json() for record in masked.rounds
    ]
    assert {failure.reason.split(":")[0] for record in ideal.rounds for failure in record.failures} == (
        {"dropped out before training", "dropped out during training", "dropped out after training", "late"}
        if drops
        else set()
    )
    assert model_hash(ideal.weights) != model_hash(worlds.build(scenario(**tables)).models.first_weights)


def test_a_ring_of_neighbours_ends_in_the_same_model_too(scenario: Build) -> None:
    tables: dict[str, Any] = {"federation": {"clients": 8, "rounds": 2}, "threat": SUM}
    ideal = run(scenario(**tables, secure_aggregation={"mode": "ideal"}))
    ring = run(scenario(**tables, secure_aggregation={"mode": "masked", "neighbours": 4, "threshold": 0.6}))
    assert model_hash(ring.weights) == model_hash(ideal.weights)


@pytest.mark.parametrize("drop", [0.0, 0.2])
def test_it_is_plain_averaging_within_quantisation(scenario: Build, drop: float) -> None:
    """After one round: later ones differ also because clients train from other weights."""
    built = scenario(
        federation={"clients": 8, "algorithm": "fedavg", "local_steps": 3, "batch_size": 4},
        participation={"drop_during": drop},
        aggregation={"optimizer": {"name": "sgd", "learning_rate": 0.5}},
        threat=SUM,
        secure_aggregation={},
    )
    secure, without = run(built), run(plain(built))
    bound = built.secure_aggregation.step * 0.5
    largest = max(float((secure.weights[name] - without.weights[name]).abs().max()) for name in secure.weights)
    assert 0 < largest <= bound + 1e-7  # float32 weights of at most 1 are rounded by 6e-8
    assert failures(secure) == failures(without)
    assert bool(failures(secure)) == bool(drop)
    assert secure.rounds[0].training_loss == pytest.approx(without.rounds[0].training_loss, abs=1e-4)


def test_the_observed_sum_is_the_mean_of_the_clients_updates(scenario: Build) -> None:
    built = scenario(federation={"clients": 4, "batch_size": 2}, threat=SUM, secure_aggregation={})
    world = worlds.build(built)
    updates = [local_training(world, world.models.first_weights, 1, client)[0] for client in range(4)]
    for journal, tolerance in ((run(built), built.secure_aggregation.step), (run(plain(built)), 1e-7)):
        (entry,) = journal.entries
        assert (entry.client, entry.clients, entry.update.examples) == (0, (0, 1, 2, 3), 8)
        assert entry.update.loss == pytest.approx(sum(update.loss for update in updates) / 4, abs=1e-4)
        for name, tensor in entry.update.tensors.items():
            mean = torch.stack([update.tensors[name] for update in updates]).mean(0)
            assert float((tensor - mean).abs().max()) <= tolerance


def test_who_is_gone_before_the_keys_is_never_asked_to_train(scenario: Build) -> None:
    built = scenario(
        federation={"clients": 12, "rounds": 2},
        participation={"drop_before": 0.1, "drop_after": 0.1},
        threat=SUM,
        secure_aggregation={"mode": "masked", "threshold": 0.51},
    )
    fates = [client_failure(built, round_, client, 1) for round_ in (1, 2) for client in range(12)]
    absent = sum(lost is not None and lost.is_absent for lost in fates)
    assert absent
    assert sum(lost is not None for lost in fates) > absent
    replies = tapped(built).replies
    by_stage = {
        stage: sum(reply.metadata.message_type == stage for reply in replies)
        for stage in ("query.advertise", "query.share", "train", "query.reveal")
    }
    there = 24 - sum(lost is not None for lost in fates)
    assert by_stage == {
        "query.advertise": 24,
        "query.share": 24 - absent,
        "train": 24 - absent,
        "query.reveal": there,
    }


@pytest.mark.parametrize("mode", ["ideal", "masked"])
def test_a_round_below_the_threshold_is_aborted_and_the_run_goes_on(scenario: Build, mode: str) -> None:
    built = scenario(
        federation={"clients": 6, "rounds": 6},
        participation={"drop_before": 0.15, "drop_during": 0.15},
        threat={**SUM, "rounds": list(range(1, 7))},
        secure_aggregation={"mode": mode, "threshold": 0.8},
    )
    journal = run(built)
    aborted = [round_ for round_, who, cause in failures(journal) if (who, cause) == ("round", "aborted")]
    assert 0 < len(aborted) < 6
    assert [entry.round for entry in journal.entries] == [r for r in range(1, 7) if r not in aborted]
    for record in journal.rounds:
        assert math.isnan(record.training_loss) == (record.round in aborted)
        assert (record.participants == ()) == (record.round in aborted)
        lost = sum(failure.cause == "dropout" for failure in record.failures)
        assert (lost > 1) == (record.round in aborted)  # 0.8 of 6 clients are 5
    for entry in journal.entries[1:]:
        before = [e for e in journal.entries if e.round < entry.round][-1]
        assert any(
            not torch.equal(entry.received_weights[n], before.received_weights[n]) for n in entry.received_weights
        )
    assert "at least 5 must" in next(f.reason for r in journal.rounds for f in r.failures if f.cause == "aborted")


@pytest.mark.parametrize("mode", ["ideal", "masked"])
def test_an_aborted_round_changes_no_weight(scenario: Build, mode: str) -> None:
    built = scenario(participation={"always_crash": [0, 2]}, threat=SUM, secure_aggregation={"mode": mode})
    journal = run(built)
    assert failures(journal) == [(1, "client 0", "crash"), (1, "client 2", "crash"), (1, "round", "aborted")]
    assert model_hash(journal.weights) == model_hash(worlds.build(built).models.first_weights)
    assert not journal.entries


def test_a_cohort_of_one_by_chance_is_an_aborted_round(scenario: Build) -> None:
    built = scenario(
        federation={"clients": 4, "rounds": 8},
        participation={"sampling": "poisson", "cohort": 2},
        threat=SUM,
        secure_aggregation={"mode": "masked"},
    )
    journal = run(built)
    small = {record.round for record in journal.rounds if len(record.cohort) < 2}
    assert small
    assert {round_ for round_, _, cause in failures(journal) if cause == "aborted"} == small


def test_the_vectorized_engine_gives_the_ideal_sum(scenario: Build) -> None:
    tables: dict[str, Any] = {
        "participation": {"drop_during": 0.2},
        "threat": SUM,
        "secure_aggregation": {"threshold": 0.51},
    }
    local, fast = (
        run(scenario(**tables, federation={"clients": 8, "batch_size": 4, "engine": engine}))
        for engine in ("local", "vectorized")
    )
    assert failures(local) == failures(fast) != []
    for name, weights in local.weights.items():
        # Where rounding in float32 moves a value over the point of the draw, one client's level differs by one.
        assert float((weights - fast.weights[name]).abs().max()) <= 2 * 8.0 / (2**22 - 1) + 1e-6


@pytest.mark.parametrize(("tables", "message"), REFUSED)
def test_what_cannot_work_is_refused_with_the_reason(scenario: Build, tables: dict[str, Any], message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        scenario(**{"threat": SUM, "secure_aggregation": {}, **tables})


def test_a_total_weight_that_does_not_fit_is_told_before_the_first_round(scenario: Build) -> None:
    tables: dict[str, Any] = {
        "federation": {"clients": 4, "algorithm": "fedavg", "local_epochs": 2, "batch_size": 50},
        "threat": SUM,
    }
    total = 2 * len(worlds.build(scenario(**tables)).data.dataset.train)
    settings = {"modulus_bits": 32}
    expected = (
        rf"secure_aggregation.modulus_bits: a total weight of {total} .*at least 34.*aggregation.weighted = false"
    )
    with pytest.raises(ScenarioError, match=expected):
        run(scenario(**tables, secure_aggregation=settings))
    run(scenario(**tables, secure_aggregation={"modulus_bits": 34}))
    run(scenario(**tables, secure_aggregation=settings, aggregation={"name": "mean", "weighted": False}))


@pytest.mark.parametrize("secure", [None, {"mode": "ideal"}, {"mode": "masked"}])
def test_a_round_in_which_every_batch_is_empty_changes_nothing(scenario: Build, secure: dict[str, str] | None) -> None:
    federation = {**POISSON, "clients": 2, "batch_size": 1, "rounds": 12}
    world = worlds.build(scenario(federation=federation, threat=SUM))
    sizes = [
        sum(len(drawn) for client in (0, 1) for drawn in world.data.numbers_of(round_, client))
        for round_ in range(1, 13)
    ]
    empty = sizes.index(0) + 1
    tables: dict[str, Any] = {"federation": {**federation, "rounds": empty}, "secure_aggregation": secure}
    journal = run(scenario(**tables, threat={**SUM, "rounds": [empty]}))
    (entry,) = journal.entries
    assert failures(journal) == []
    assert model_hash(journal.weights) == model_hash(entry.received_weights)
    assert math.isnan(journal.rounds[-1].training_loss)
    assert replay(world, entry).truth.raw.examples == 0


@pytest.mark.parametrize("passes", [{"sampling": "poisson"}, {"sampling": "shuffle"}])
def test_the_largest_sum_counts_what_dp_sgd_states(scenario: Build, passes: dict[str, str]) -> None:
    """It states the expected batch, which is more than these clients own: 10 times 2 passes over 512, not 1347."""
    built = scenario(
        federation={"clients": 10, "algorithm": "fedavg", "local_epochs": 2, "batch_size": 512, **passes},
        defenses=[{"name": "dp-sgd", "mode": "functorch"}],
        threat=SUM,
        secure_aggregation={"modulus_bits": 35},
    )
    with pytest.raises(ScenarioError, match="a total weight of 10240 "):
        run(built)
    world = worlds.build(built)
    assert local_training(world, world.models.first_weights, 1, 0)[0].examples == 1024


@pytest.mark.parametrize("mode", ["ideal", "masked"])
@pytest.mark.parametrize("weighted", [True, False])
def test_examples_are_counted_and_losses_averaged_whatever_the_weights(
    scenario: Build, mode: str, weighted: bool
) -> None:
    """Three clients, of which each passes over a share of another size: 1 is no number of examples."""
    built = scenario(
        federation={"clients": 3, "algorithm": "fedavg", "local_epochs": 2, "batch_size": 2000},
        partition={"scheme": "quantity-skew", "alpha": 1.0},
        aggregation={"name": "mean", "weighted": weighted},
        threat=SUM,
        secure_aggregation={"mode": mode},
    )
    world, journal, without = worlds.build(built), run(built), run(plain(built))
    owned = sum(map(len, world.data.shares))
    (entry,) = journal.entries
    assert entry.update.examples == without.entries[0].update.examples == 2 * owned
    losses = [local_training(world, world.models.first_weights, 1, client)[0].loss for client in range(3)]
    sizes = [len(share) if weighted else 1 for share in world.data.shares]
    expected = sum(loss * size for loss, size in zip(losses, sizes, strict=True)) / sum(sizes)
    # Losses up to 64 are rounded to one of 2^22 levels.
    assert journal.rounds[0].training_loss == pytest.approx(expected, abs=2 * 64.0 / (2**22 - 1) + 1e-6)
