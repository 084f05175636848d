"""What clients of secure aggregation send: nothing in the clear, weights, empty batches, and their memory."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message
from scipy.stats import chisquare

from fedsim.core import registry
from fedsim.core.errors import ScenarioError
from fedsim.core.types import WireEntry
from fedsim.experiment.runner import model_hash
from fedsim.federation.secure_client import mean_of, summand
from fedsim.privacy.secure_aggregation.per_element import Disclosed
from fedsim.scenario import world as worlds
from fedsim.threat.replay import replay
from tests.experiment.running import Build
from tests.federating import run
from tests.federation.secured import POISSON, SUM, failures, plain, tapped

MEMORY = """
import torch
from typing import ClassVar, final
from fedsim.core.hooks import Defense
from fedsim.core.registry import defense
from fedsim.core.types import Config, MethodDescription
class FeedbackConfig(Config):
    pass
@final
@defense("halving-with-feedback", summary="sends half, and the rest later")
class Feedback(Defense[FeedbackConfig]):
    keeps_state: ClassVar[bool] = True
    def on_gradient(self, gradient, here):
        whole = {n: g + here.memory.get(n, torch.zeros_like(g)) for n, g in gradient.items()}
        here.memory.update({n: g / 2 for n, g in whole.items()})
        return {n: g / 2 for n, g in whole.items()}
    def adaptive_view(self):
        return MethodDescription("halving-with-feedback")
"""


def vector(upload: Message) -> torch.Tensor:
    entries = upload.content.config_records["update"]
    dtype = {"int32": torch.int32, "int64": torch.int64}[entries["type"]]
    return torch.frombuffer(bytearray(entries["vector"]), dtype=dtype).long()


def top_bits_pvalue(numbers: torch.Tensor, bits: int) -> float:
    return float(chisquare(torch.bincount(numbers >> (bits - 5), minlength=32).numpy()).pvalue)


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

"""


@pytest.fixture
def own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secure_models.py").write_text(RAISING)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.fixture
def _registry_as_before() -> Iterator[None]:
    with registry.temporary():
        yield


def test_a_single_upload_looks_uniform_only_when_masked(scenario: Build) -> None:
    tables: dict[str, Any] = {"federation": {"clients": 5}, "threat": SUM, "participation": {"always_crash": [4]}}
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
    forgotten = WireEntry(entry.round, entry.client, entry.received_weights, entry.update, entry.clients)
    assert not replay(world, forgotten).matches


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
    world = worlds.build(built)
    drawn = [sum(map(len, world.data.numbers_of(1, client))) for client in range(6)]
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


@pytest.mark.parametrize("loss", [0.0, 3.5, 63.0, 1e9, math.inf])
def test_the_loss_fits_whatever_the_clipping_range(scenario: Build, loss: float) -> None:
    built = scenario(threat=SUM, secure_aggregation={"clipping_range": 0.01})
    world = worlds.build(built)
    own = summand(world, torch.zeros(world.models.layout.size), 7, loss, 1, 0)
    assert own is not None
    mean, weight, found = mean_of(world, Disclosed(own, None))
    assert weight == 7
    assert found == pytest.approx(min(loss, 64.0), abs=2 * 64.0 / (2**22 - 1) + 1e-5)
    assert float(mean.abs().max()) <= 2 * 0.01 / (2**22 - 1)
    assert summand(world, torch.zeros(world.models.layout.size), 7, math.nan, 1, 0) is None


@pytest.mark.slow
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
    first, other_client, other_round, again = (level for level in levels if level is not None)
    assert torch.equal(first, again)
    for other in (other_client, other_round):
        assert int((first - other).abs().max()) == 1  # the two levels around a value
        # Independent draws put a third of uniformly placed values on different levels.
        assert 0.25 < float((first != other).float().mean()) < 0.42
