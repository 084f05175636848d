"""Secure aggregation in the federation: what travels, what the server learns, what is refused, attacks on sums."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message
from scipy.stats import chisquare

from fedsim import report
from fedsim.core import registry, seeding
from fedsim.core.errors import FedsimError, NotApplicable, ScenarioError
from fedsim.core.types import WireEntry
from fedsim.experiment.runner import model_hash
from fedsim.federation import apps
from fedsim.federation.client import local_training
from fedsim.federation.engines.local import LocalGrid
from fedsim.federation.journal import Journal
from fedsim.federation.participation import fate
from fedsim.federation.secure_client import mean_of, summand
from fedsim.record.store import RunFolder
from fedsim.scenario import Scenario, arms
from fedsim.scenario import world as worlds
from fedsim.threat.observe import describe, observe
from fedsim.threat.replay import replay
from fedsim.threat.victim import Victim
from tests.federating import recorded, run

Build = Callable[..., Scenario]
SUM = {"sees": "sum"}
MEMORY = """
import torch
from typing import ClassVar, final
from fedsim.core.hooks import Defense
from fedsim.core.registry import defense
from fedsim.core.types import Config, PublicKnowledge
class FeedbackConfig(Config):
    pass
@final
@defense("halving-with-feedback", summary="sends half, and the rest later")
class Feedback(Defense[FeedbackConfig]):
    remembers: ClassVar[bool] = True
    def on_gradient(self, gradient, here):
        whole = {n: g + here.memory.get(n, torch.zeros_like(g)) for n, g in gradient.items()}
        here.memory.update({n: g / 2 for n, g in whole.items()})
        return {n: g / 2 for n, g in whole.items()}
    def adaptive_view(self):
        return PublicKnowledge("halving-with-feedback")
"""


def plain(scenario: Scenario) -> Scenario:
    return scenario.model_copy(update={"secure_aggregation": None})


def failures(journal: Journal) -> list[tuple[int, str, str]]:
    return [(record.round, lost.who, lost.cause) for record in journal.rounds for lost in record.failures]


@pytest.mark.parametrize("drops", [{}, {"drop_before": 0.08, "drop_during": 0.08, "drop_after": 0.08, "deadline": 8.0}])
@pytest.mark.parametrize("weighted", [True, False])
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
    assert {failure.why.split(":")[0] for record in ideal.rounds for failure in record.failures} == (
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
    assert built.secure_aggregation is not None
    secure, without = run(built), run(plain(built))
    bound = built.secure_aggregation.step * 0.5
    largest = max(float((secure.weights[name] - without.weights[name]).abs().max()) for name in secure.weights)
    assert 0 < largest <= bound + 1e-7  # float32 weights of at most 1 are rounded by 6e-8
    assert failures(secure) == failures(without)
    assert bool(failures(secure)) == bool(drop)
    assert secure.rounds[0].training_loss == pytest.approx(without.rounds[0].training_loss, abs=1e-4)


def test_errors_of_the_rounds_add_up_where_nobody_reacts_to_the_weights(scenario: Build) -> None:
    """Clients that send next to nothing are rounded all the same: rounds * step * learning rate."""
    built = scenario(
        federation={"clients": 3, "rounds": 5, "batch_size": 5},
        model={"name": "mlp", "width": 4, "depth": 1, "dropout": 0.0},
        defenses=[{"name": "clipping", "norm": 1e-9}],
        threat=SUM,
        secure_aggregation={},
    )
    assert built.secure_aggregation is not None
    secure, without = run(built), run(plain(built))
    bound = 5 * built.secure_aggregation.step
    for name, weights in secure.weights.items():
        assert float((weights - without.weights[name]).abs().max()) <= bound + 5e-7


def test_the_observed_sum_is_the_mean_of_the_clients_updates(scenario: Build) -> None:
    built = scenario(federation={"clients": 4, "batch_size": 2}, threat=SUM, secure_aggregation={})
    assert built.secure_aggregation is not None
    world = worlds.build(built)
    updates = [local_training(world, world.models.first_weights, 1, client)[0] for client in range(4)]
    for journal, tolerance in ((run(built), built.secure_aggregation.step), (run(plain(built)), 1e-7)):
        (entry,) = journal.entries
        assert (entry.client, entry.clients, entry.update.examples) == (0, (0, 1, 2, 3), 8)
        assert entry.update.loss == pytest.approx(sum(update.loss for update in updates) / 4, abs=1e-4)
        for name, tensor in entry.update.tensors.items():
            mean = torch.stack([update.tensors[name] for update in updates]).mean(0)
            assert float((tensor - mean).abs().max()) <= tolerance


@dataclass
class Tapped(LocalGrid):
    """A grid that keeps a copy of every reply, as somebody on the wire would."""

    scenario: Scenario
    replies: list[Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        clients = self.scenario.federation.clients
        super().__init__(apps.client_app(), clients, {apps.SCENARIO_KEY: self.scenario.model_dump_json()})

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        for reply in super().send_and_receive(messages, timeout=timeout):
            self.replies.append(reply)
            yield reply

    def uploads(self) -> list[Message]:
        return [reply for reply in self.replies if reply.metadata.message_type == "train" and not reply.has_error()]


def tapped(scenario: Scenario) -> Tapped:
    grid = Tapped(scenario)
    grid.serve(apps.server_app(Journal(lambda _record: None)))
    return grid


def vector(upload: Message) -> torch.Tensor:
    entries = upload.content.config_records["update"]
    dtype = {"int32": torch.int32, "int64": torch.int64}[entries["type"]]
    return torch.frombuffer(bytearray(entries["vector"]), dtype=dtype).long()


def top_bits_pvalue(numbers: torch.Tensor, bits: int) -> float:
    return float(chisquare(torch.bincount(numbers >> (bits - 5), minlength=32).numpy()).pvalue)


def test_a_single_upload_looks_uniform_only_when_masked(scenario: Build) -> None:
    tables: dict[str, Any] = {"federation": {"clients": 5}, "threat": SUM, "participation": {"crashing": [4]}}
    ideal = tapped(scenario(**tables, secure_aggregation={"mode": "ideal"})).uploads()
    grid = tapped(scenario(**tables, secure_aggregation={"mode": "masked"}))
    masked = grid.uploads()
    assert len(ideal) == len(masked) == 4
    for in_the_clear, hidden in zip(ideal, masked, strict=True):
        assert top_bits_pvalue(vector(in_the_clear), 40) < 1e-9
        assert top_bits_pvalue(vector(hidden), 40) > 1e-3
        assert float((vector(in_the_clear) == vector(hidden)).float().mean()) < 0.01
    stages = [reply.metadata.message_type for reply in grid.replies]
    assert [stages.count(f"query.{stage}") for stage in ("advertise", "share", "reveal")] == [5, 5, 4]


def test_neither_examples_nor_loss_travel_in_the_clear(scenario: Build) -> None:
    for mode in ("ideal", "masked"):
        built = scenario(federation={"clients": 4, "batch_size": 3}, threat=SUM, secure_aggregation={"mode": mode})
        for upload in tapped(built).uploads():
            assert list(upload.content) == ["update"]
            assert list(upload.content["update"]) == ["vector", "type"]


def test_who_is_gone_before_the_keys_is_never_asked_to_train(scenario: Build) -> None:
    built = scenario(
        federation={"clients": 12, "rounds": 2},
        participation={"drop_before": 0.1, "drop_after": 0.1},
        threat=SUM,
        secure_aggregation={"mode": "masked", "threshold": 0.51},
    )
    fates = [fate(built, round_, client, 1) for round_ in (1, 2) for client in range(12)]
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
        assert any(not torch.equal(entry.received[n], before.received[n]) for n in entry.received)
    assert "at least 5 must" in next(f.why for r in journal.rounds for f in r.failures if f.cause == "aborted")


@pytest.mark.parametrize("mode", ["ideal", "masked"])
def test_an_aborted_round_changes_no_weight(scenario: Build, mode: str) -> None:
    built = scenario(participation={"crashing": [0, 2]}, threat=SUM, secure_aggregation={"mode": mode})
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


RAISING = """
import torch
from torch import nn
class Own(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.linear = nn.Linear(64, classes)
    def forward(self, x):
        x = x.flatten(1)
        return self.linear(x) * torch.where((x.sum(1, keepdim=True) - 5.7).abs() < 0.5, torch.inf, 1.0)
def diverging(spec):
    return Own(spec.classes)
class Raising(Own):
    def forward(self, x):
        if self.training:
            raise RuntimeError("my layer is broken")
        return super().forward(x)
def broken(spec):
    return Raising(spec.classes)
"""


@pytest.fixture
def own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secure_models.py").write_text(RAISING)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("own_modules")
@pytest.mark.parametrize("engine", ["local", "vectorized"])
def test_a_client_whose_update_is_not_finite_leaves_itself_out(scenario: Build, engine: str) -> None:
    built = scenario(
        model={"name": "secure_models:diverging"},
        federation={"clients": 8, "engine": engine},
        threat=SUM,
        secure_aggregation={"threshold": 0.51},
    )
    journal, without = run(built), run(plain(built))
    assert failures(journal) == failures(without)
    assert failures(journal) == [(1, "client 6", "not finite")]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in journal.weights.values())


@pytest.mark.usefixtures("own_modules")
@pytest.mark.parametrize("mode", ["ideal", "masked"])
def test_a_model_that_fails_only_at_work_is_one_clear_error(
    scenario: Build, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedsim.scenario.own_models.checked", lambda *_, **__: None)
    built = scenario(model={"name": "secure_models:broken"}, threat=SUM, secure_aggregation={"mode": mode})
    with pytest.raises(FedsimError, match=r"every client of the round failed.*my layer is broken"):
        run(built)


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


@pytest.fixture
def _registry_as_before() -> Iterator[None]:
    with registry.temporary():
        yield


@pytest.mark.usefixtures("_registry_as_before")
def test_a_stateful_client_is_followed_through_the_rounds_whose_sums_it_was_in(
    scenario: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_feedback.py").write_text(MEMORY)
    monkeypatch.syspath_prepend(str(tmp_path))
    import own_feedback  # noqa: F401  # pyright: ignore[reportMissingImports]

    built = scenario(
        federation={"clients": 6, "rounds": 4},
        participation={"drop_after": 0.3},
        defenses=[{"name": "halving-with-feedback"}],
        threat={**SUM, "rounds": [4]},
        secure_aggregation={"mode": "masked", "threshold": 0.51},
    )
    journal = run(built)
    (entry,) = journal.entries
    rounds = {client: [r for r, _ in entry.earlier.get(client, ())] for client in entry.clients}
    assert any(len(of_client) < 3 for of_client in rounds.values()), "everybody counted always: it proves nothing"
    assert any(of_client for of_client in rounds.values())
    world = worlds.build(built)
    assert replay(world, entry).matches
    forgotten = WireEntry(entry.round, entry.client, entry.received, entry.update, entry.clients)
    assert not replay(world, forgotten).matches


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"threat": {}}, r"threat.sees is 'single-update', but behind secure aggregation .* Set threat.sees = 'sum'"),
    (
        {"aggregation": {"name": "krum"}},
        r"aggregation.name: 'krum' looks at the updates of single clients, and behind secure aggregation",
    ),
    ({"aggregation": {"name": "median"}}, r"'median' looks at the updates of single clients"),
    ({"aggregation": {"name": "trimmed-mean"}}, r"'trimmed-mean' looks at the updates of single clients"),
    (
        {"federation": {"engine": "vectorized"}, "secure_aggregation": {"mode": "masked"}},
        r"mode is 'masked', but the engine 'vectorized' .* Set mode = 'ideal'",
    ),
    ({"participation": {"cohort": 1}}, r"a sum of one is the update itself"),
    ({"threat": {**SUM, "victims": 2}}, r"threat.victims is 2, expected 1"),
    (
        {"federation": {"algorithm": "fedavg"}, "attacks": [{"name": "inverting-gradients"}]},
        r"attacks: .*need federation.algorithm = 'fedsgd'",
    ),
    (
        {"attacks": [{"name": "closed-form-linear"}]},
        r"attacks.0.name: 'closed-form-linear' works on single-update, but threat.sees = 'sum'",
    ),
    ({"secure_aggregation": {"treshold": 0.6}}, r"secure_aggregation.treshold: there is no such key"),
    ({"secure_aggregation": {"threshold": 0.5}}, r"secure_aggregation.threshold: .*greater than 0.5"),
]


@pytest.mark.parametrize(("tables", "message"), REFUSED)
def test_what_cannot_work_is_refused_with_the_reason(scenario: Build, tables: dict[str, Any], message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        scenario(**{"threat": SUM, "secure_aggregation": {}, **tables})


def test_a_rule_that_gives_no_mean_is_refused_under_attacks_on_the_sum(scenario: Build) -> None:
    tables: dict[str, Any] = {"threat": SUM, "aggregation": {"name": "median"}}
    assert len(run(scenario(**tables)).entries) == 1
    with pytest.raises(ScenarioError, match="'median' gives no mean of the updates"):
        scenario(**tables, attacks=[{"name": "inverting-gradients"}])


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


POISSON: dict[str, Any] = {"clients": 6, "sampling": "poisson", "batch_size": 5}


@pytest.mark.parametrize("settings", [{"levels": 2, "modulus_bits": 5}, {"modulus_bits": 27}])
def test_a_poisson_batch_may_hold_all_that_its_client_owns(scenario: Build, settings: dict[str, Any]) -> None:
    """Both moduli hold the expected 30 examples a round, and not what Poisson sampling may draw."""
    tables: dict[str, Any] = {"federation": {**POISSON, "rounds": 2}, "threat": SUM}
    owned = len(worlds.build(scenario(**tables)).data.dataset.train)
    expected = rf"a total weight of {owned} does not fit: .*may draw all that it owns into every Poisson batch"
    with pytest.raises(ScenarioError, match=expected) as refused:
        run(scenario(**tables, secure_aggregation=settings))
    advised = int(str(refused.value).split("modulus_bits to at least ")[1].split(" ")[0])
    with pytest.raises(ScenarioError, match=expected):
        run(scenario(**tables, secure_aggregation={**settings, "modulus_bits": advised - 1}))
    run(scenario(**tables, secure_aggregation={**settings, "modulus_bits": advised}))


@pytest.mark.parametrize("mode", ["ideal", "masked"])
def test_an_empty_batch_is_a_contribution_of_weight_zero(scenario: Build, mode: str) -> None:
    tables: dict[str, Any] = {"federation": {**POISSON, "batch_size": 1}, "threat": SUM}
    built = scenario(**tables, secure_aggregation={"mode": mode})
    assert built.secure_aggregation is not None
    world = worlds.build(built)
    drawn = [sum(map(len, world.data.drawn(1, client))) for client in range(6)]
    assert 0 in drawn
    assert any(drawn)
    secure, without = run(built), run(plain(built))
    assert failures(secure) == []
    (entry,) = secure.entries
    assert entry.clients == (0, 1, 2, 3, 4, 5)
    assert entry.update.examples == sum(drawn)
    assert replay(world, entry).matches
    for name, weights in secure.weights.items():
        # One step of rounding, times the server's step size of 1; float32 weights of at most 1 are rounded by 6e-8.
        assert float((weights - without.weights[name]).abs().max()) <= built.secure_aggregation.step + 1e-7


@pytest.mark.parametrize("secure", [None, {"mode": "ideal"}, {"mode": "masked"}])
def test_a_round_in_which_every_batch_is_empty_changes_nothing(scenario: Build, secure: dict[str, str] | None) -> None:
    federation = {**POISSON, "clients": 2, "batch_size": 1, "rounds": 12}
    world = worlds.build(scenario(federation=federation, threat=SUM))
    sizes = [
        sum(len(drawn) for client in (0, 1) for drawn in world.data.drawn(round_, client)) for round_ in range(1, 13)
    ]
    empty = sizes.index(0) + 1
    tables: dict[str, Any] = {"federation": {**federation, "rounds": empty}, "secure_aggregation": secure}
    journal = run(scenario(**tables, threat={**SUM, "rounds": [empty]}))
    (entry,) = journal.entries
    assert failures(journal) == []
    assert model_hash(journal.weights) == model_hash(entry.received)
    assert math.isnan(journal.rounds[-1].training_loss)
    assert replay(world, entry).truth.raw.examples == 0


@pytest.mark.parametrize("passes", [{"sampling": "poisson"}, {"sampling": "passes"}])
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


def test_the_mode_can_be_an_arm(scenario: Build) -> None:
    built = scenario(threat=SUM, arms={"secure_aggregation.mode": ["ideal", "masked"]})
    modes = [arm.secure_aggregation.mode for _, arm in arms(built) if arm.secure_aggregation]
    assert modes == ["ideal", "masked"]


@pytest.mark.parametrize(
    ("secure", "sentence"),
    [
        (None, "nothing in the scenario hides them"),
        ({"mode": "ideal"}, "a trusted party adds up"),
        ({"mode": "masked"}, "each upload looks random"),
    ],
)
def test_the_threat_model_says_who_hides_single_updates(
    scenario: Build, secure: dict[str, str] | None, sentence: str
) -> None:
    text = " ".join(describe(worlds.build(scenario(threat=SUM, secure_aggregation=secure))))
    assert "It sees one sum a round: the mean of what about 4 clients send" in text
    assert sentence in text
    assert "It attacks the sum in round 1." in text


@pytest.mark.parametrize("secure", [None, {"mode": "masked"}])
def test_an_attack_on_the_sum_end_to_end(scenario: Build, tmp_path: Path, secure: dict[str, str] | None) -> None:
    """Four clients of one image each: the attack gets one gradient of four images."""
    attacks = [{"name": "inverting-gradients", "max_iterations": 8}, {"name": "dropout-inversion", "max_iterations": 8}]
    built = scenario(threat=SUM, secure_aggregation=secure, attacks=attacks)
    record = recorded(built, tmp_path / "run")
    (arm,) = record.arms
    assert arm.replay_matches
    for attack in arm.attacks:
        (victim,) = attack.victims
        assert victim.failure is None
        assert (victim.clients, victim.who) == ((0, 1, 2, 3), "sum of 4 clients")
        assert len(victim.scores) == 4
        assert victim.objective_at_truth is not None
        # Without quantisation the union's gradient is the mean exactly; a step moves the cosine by less than 1e-4.
        assert abs(victim.objective_at_truth) < (1e-6 if secure is None else 1e-4)
    stored = RunFolder(tmp_path / "run").read_arrays()
    assert stored[f"{arm.attacks[0].victims[0].arrays}/originals"].shape == (4, 1, 8, 8)
    assert "round 1, sum of 4 clients" in report.build(tmp_path / "run").read_text()
    assert ",0+1+2+3," in (tmp_path / "run" / "scores.csv").read_text()


def test_sparse_dictionary_separates_the_clients_of_a_plain_sum(scenario: Build, tmp_path: Path) -> None:
    """Its exact zeros survive a sum of four clients, and tell their images apart; coarse steps blur them."""
    tables: dict[str, Any] = {
        "model": {"name": "mlp", "width": 128, "depth": 2, "dropout": 0.5},
        "threat": SUM,
        "attacks": [{"name": "sparse-dictionary"}],
    }
    (victim,) = recorded(scenario(**tables), tmp_path / "plain").arms[0].attacks[0].victims
    assert [item.values["psnr"] > 60 for item in victim.scores] == [True] * 4
    (victim,) = recorded(scenario(**tables, secure_aggregation={}), tmp_path / "secure").arms[0].attacks[0].victims
    blurred = [item.values["psnr"] for item in victim.scores]
    assert min(blurred) > 30
    assert max(blurred) < 90


def test_the_observation_of_a_sum_is_of_all_examples(scenario: Build) -> None:
    built = scenario(federation={"clients": 3, "batch_size": 2}, threat=SUM)
    (entry,) = run(built).entries
    world = worlds.build(built)
    replayed = replay(world, entry)
    assert replayed.matches
    seen = observe(Victim(world, entry, replayed.truth), ("labels", "masks", "batch-size", "dropout-rates"))
    assert seen.masks is not None
    assert [mask.shape for mask in seen.masks[0]] == [site.shape for site in seen.sites]
    assert (seen.threat.sees, seen.batch_size, seen.update.examples) == ("sum", 6, 6)
    assert [site.shape[0] for site in seen.sites] == [6, 6]
    labels = [local_training(world, entry.received, 1, client)[1].batches[0].labels for client in range(3)]
    assert seen.labels is not None
    assert torch.equal(seen.labels, torch.cat(labels))
    from attacks.gradient_matching.wiig import Wiig, WiigConfig

    with pytest.raises(NotApplicable, match="works on single-update, but the server sees sum"):
        Wiig(WiigConfig())(seen, seeding.generator(1, "attack"))


BATCH_NORM = """
from torch import nn
def make(spec):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, spec.classes))
"""


def test_a_model_that_mixes_examples_is_refused_under_attacks_on_the_sum(
    scenario: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mixing.py").write_text(BATCH_NORM)
    monkeypatch.syspath_prepend(str(tmp_path))
    tables: dict[str, Any] = {
        "model": {"name": "mixing:make"},
        "federation": {"batch_size": 2},
        "threat": SUM,
        "secure_aggregation": {},
    }
    assert recorded(scenario(**tables), tmp_path / "without").arms[0].replay_matches
    built = scenario(**tables, attacks=[{"name": "inverting-gradients"}])
    with pytest.raises(FedsimError, match=r"'2' \(BatchNorm1d\) mixes the examples"):
        recorded(built, tmp_path / "with")


@pytest.mark.parametrize("loss", [0.0, 3.5, 63.0, 1e9, math.inf])
def test_the_loss_fits_whatever_the_clipping_range(scenario: Build, loss: float) -> None:
    built = scenario(threat=SUM, secure_aggregation={"clipping_range": 0.01})
    world = worlds.build(built)
    own = summand(world, torch.zeros(world.models.layout.size), 7, loss, 1, 0)
    assert own is not None
    mean, weight, found = mean_of(world, own)
    assert weight == 7
    assert found == pytest.approx(min(loss, 64.0), abs=2 * 64.0 / (2**22 - 1) + 1e-5)
    assert float(mean.abs().max()) <= 2 * 0.01 / (2**22 - 1)
    assert summand(world, torch.zeros(world.models.layout.size), 7, math.nan, 1, 0) is None


def test_worker_processes_carry_the_memory_between_the_stages(scenario: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.federation.engines.local._WORTH_A_PROCESS", 0.0)
    federation = {"clients": 6, "rounds": 2}
    tables: dict[str, Any] = {"threat": SUM, "secure_aggregation": {"mode": "masked"}}
    alone = run(scenario(**tables, federation=federation))
    together = run(scenario(**tables, federation={**federation, "workers": 2}))
    assert failures(together) == []
    assert model_hash(together.weights) == model_hash(alone.weights)


def test_every_client_rounds_by_its_own_draws_in_every_round(scenario: Build) -> None:
    """Were all rounded alike, their errors would not average out, and would tell of differences between clients."""
    world = worlds.build(scenario(threat=SUM, secure_aggregation={}))
    values = torch.linspace(-1, 1, world.models.layout.size)
    levels = [summand(world, values, 1, 1.0, round_, client) for round_, client in ((1, 0), (1, 1), (2, 0), (1, 0))]
    first, other_client, other_round, again = (own for own in levels if own is not None)
    assert torch.equal(first, again)
    for other in (other_client, other_round):
        assert int((first - other).abs().max()) == 1  # the two levels around a value
        # Independent draws put a third of uniformly placed values on different levels.
        assert 0.25 < float((first != other).float().mean()) < 0.42
