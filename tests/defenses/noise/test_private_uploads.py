"""Local and distributed differential privacy: clipping, noise and its share, refusals, and epsilon of both."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedsim.core import registry
from fedsim.core.errors import ScenarioError
from fedsim.core.hooks import Defense, HookContext
from fedsim.core.types import Tensors, Update
from fedsim.federation.client import local_training
from fedsim.privacy.accounting import gaussian_epsilon
from fedsim.privacy.secure_aggregation.config import SecureAggregation
from fedsim.privacy.upload import why_buffers_move
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from tests.federating import recorded

Build = Callable[..., Scenario]
SECURE = {"threat": {"sees": "sum"}, "secure_aggregation": {"mode": "ideal"}}
METHODS = ["local-dp", "distributed-dp"]


def make(name: str, **settings: Any) -> Defense[Any]:
    method = registry.get("defense", name)
    return method.make(method.config.model_validate(settings))


def sent(defense: Defense[Any], tensors: Tensors, buffers: Tensors | None = None, seed: int = 0) -> Update:
    here = HookContext(1, 0, 1, torch.Generator().manual_seed(seed))
    return defense.on_upload(Update("delta", tensors, buffers or {}, 17, 2.5), here)


def joint(tensors: Tensors) -> float:
    return float(torch.stack([t.double().norm() for t in tensors.values()]).norm())


@pytest.mark.parametrize("name", METHODS)
@given(
    st.lists(st.lists(st.integers(1, 4), max_size=3), min_size=1, max_size=4), st.integers(0, 99), st.floats(0.01, 9)
)
def test_an_update_of_any_shapes_is_clipped_jointly_scalars_included(name, shapes, seed, clip) -> None:
    numbers = torch.Generator().manual_seed(seed)
    tensors = {str(i): 5 * torch.randn(shape, generator=numbers) for i, shape in enumerate(shapes)}
    before = {key: t.clone() for key, t in tensors.items()}
    found = sent(make(name, clip=clip, noise_multiplier=0.0), tensors).tensors
    factor = min(1.0, clip / joint(tensors))
    assert joint(found) <= clip * (1 + 1e-6)
    assert all(torch.allclose(found[key], t * factor, rtol=1e-5) for key, t in before.items())
    assert all(torch.equal(tensors[key], t) for key, t in before.items())


@pytest.mark.parametrize("name", METHODS)
def test_a_short_update_without_noise_is_sent_bit_by_bit(name) -> None:
    tensors = {"w": torch.randn(5, 3), "scale": torch.tensor(0.5)}
    found = sent(make(name, clip=1e6, noise_multiplier=0.0), tensors).tensors
    assert all(torch.equal(found[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("spoilt", [torch.nan, torch.inf, 0.0])
def test_zero_and_unusable_updates_become_noise_alone(name, spoilt) -> None:
    """Refusing one would tell that the client's data spoilt it."""
    tensors = {"w": torch.full((50_000,), spoilt), "scale": torch.tensor(3.0 if spoilt else 0.0)}
    found = sent(make(name, clip=0.5, noise_multiplier=2.0), tensors).tensors
    zero = sent(make(name, clip=0.5, noise_multiplier=2.0), {key: t * 0 for key, t in tensors.items()}).tensors
    assert all(torch.isfinite(t).all() for t in found.values())
    assert float(found["w"].std()) == pytest.approx(1.0, rel=0.02)
    if spoilt == 0.0:
        assert torch.equal(found["w"], zero["w"])


@pytest.mark.parametrize("name", METHODS)
def test_nothing_else_of_the_upload_tells_of_the_data(name) -> None:
    found = sent(make(name), {"w": torch.ones(3)}, {"mean": torch.ones(4)})
    assert (found.examples, found.loss) == (1, 0.0)
    assert torch.equal(found.buffers["mean"], torch.zeros(4))


@pytest.mark.parametrize("name", METHODS)
def test_noise_differs_by_client_and_round_and_repeats_for_the_same(scenario: Build, name) -> None:
    tables = SECURE if name == "distributed-dp" else {}
    world = worlds.build(scenario(**tables, defenses=[{"name": name}]))

    def upload(round_: int, client: int) -> torch.Tensor:
        update, _ = local_training(world, world.models.first_weights, round_, client)
        return world.models.layout.flat(update.tensors, update.buffers)

    assert torch.equal(upload(1, 0), upload(1, 0))
    found = [upload(1, 0), upload(1, 1), upload(2, 0)]
    assert all(torch.dist(a, b) > 1e-3 for i, a in enumerate(found) for b in found[:i])


def test_the_mean_of_local_uploads_has_a_variance_that_is_smaller_by_their_number() -> None:
    defense, clients = make("local-dp", clip=0.5, noise_multiplier=2.0), 16
    uploads = torch.stack([sent(defense, {"w": torch.zeros(20_000)}, seed=c).tensors["w"] for c in range(clients)])
    assert float(uploads[0].var()) == pytest.approx(1.0, rel=0.05)
    assert float(uploads.mean(0).var()) == pytest.approx(1.0 / clients, rel=0.05)


def test_local_noise_costs_more_than_central_noise_on_the_mean_of_the_same_accuracy(scenario: Build) -> None:
    """For one noise on the mean, central noise on the sum of m clients is sqrt(m) times one client's own."""
    clients, sigma = 4, 8.0
    local = worlds.build(scenario(defenses=[{"name": "local-dp", "noise_multiplier": sigma}]))
    stated = local.facts.client_mechanisms["local-dp"]
    assert (stated.unit, stated.adjacency, stated.sampling_rate) == ("client", "replace", 1.0)
    assert stated.noise_multiplier == sigma / 2  # neighbours are 2S apart
    rule = {"name": "dp-fedavg", "noise_multiplier": sigma * clients**0.5}
    central = worlds.build(scenario(aggregation=rule)).facts.server_mechanism
    assert central is not None
    assert central.noise_multiplier == sigma * clients**0.5 / 2
    cost = gaussian_epsilon(1 / stated.noise_multiplier, 1e-5)
    assert cost > 1.8 * gaussian_epsilon(1 / central.noise_multiplier, 1e-5)


def test_neighbours_are_two_clipping_norms_apart() -> None:
    defense = make("local-dp", clip=1.0, noise_multiplier=0.0)
    one, other = (sent(defense, {"w": torch.tensor([sign, 0.0])}).tensors["w"] for sign in (9.0, -9.0))
    assert float(torch.dist(one, other)) == pytest.approx(2.0)


def test_the_record_states_the_local_guarantee_of_all_rounds(scenario: Build, tmp_path: Path) -> None:
    built = scenario(federation={"rounds": 4}, defenses=[{"name": "local-dp", "noise_multiplier": 10.0}], attacks=[])
    (found,) = recorded(built, tmp_path).arms[0].guarantees
    assert found.epsilon == pytest.approx(gaussian_epsilon(math.sqrt(4) / 5.0, 1e-5))
    assert (found.unit, found.adjacency, found.accountant) == ("client", "replace", "exact")


def test_a_local_target_is_met_on_the_vectorized_engine_too(scenario: Build, tmp_path: Path) -> None:
    federation = {"rounds": 3, "engine": "vectorized"}
    built = scenario(federation=federation, defenses=[{"name": "local-dp", "target_epsilon": 4.0}], attacks=[])
    (found,) = recorded(built, tmp_path).arms[0].guarantees
    assert 3.95 < found.epsilon <= 4.0


def test_shares_of_the_noise_add_up_to_the_promise_in_the_smallest_sum(scenario: Build) -> None:
    """Secure aggregation of four clients opens sums of three or four: three shares are the promise, four exceed it."""
    world = worlds.build(
        scenario(**SECURE, defenses=[{"name": "distributed-dp", "clip": 0.5, "noise_multiplier": 2.0}])
    )
    assert world.facts.rules.smallest_sum == SecureAggregation().survivors_needed(4) == 3
    defense = world.stack.defenses[0]
    zero = Update("gradient", {"w": torch.zeros(50_000)}, {}, 1, 0.0)
    shares = [
        defense.on_upload(
            zero, HookContext(1, c, 1, torch.Generator().manual_seed(c), rules=world.facts.rules)
        ).tensors["w"]
        for c in range(4)
    ]
    assert float(torch.stack(shares[:3]).sum(0).std()) == pytest.approx(2.0 * 0.5, rel=0.02)
    assert float(torch.stack(shares).sum(0).std()) > 1.1 * 2.0 * 0.5
    assert world.facts.client_mechanisms["distributed-dp"].noise_multiplier == 1.0


@pytest.mark.parametrize(
    "participation", [{"sampling": "poisson", "fraction": 0.9}, {"availability": 0.9}], ids=["poisson", "availability"]
)
def test_where_cohorts_may_be_small_only_two_shares_are_relied_on(scenario: Build, participation) -> None:
    world = worlds.build(scenario(**SECURE, participation=participation, defenses=[{"name": "distributed-dp"}]))
    assert world.facts.rules.smallest_sum == 2


def test_colluding_clients_add_no_noise(scenario: Build) -> None:
    def deviation(colluding: int) -> float:
        settings = {"name": "distributed-dp", "colluding": colluding, "clip": 0.25}
        world = worlds.build(scenario(**SECURE, defenses=[settings]))
        world.check()
        here = HookContext(1, 0, 1, torch.Generator().manual_seed(0), rules=world.facts.rules)
        zero = Update("gradient", {"w": torch.zeros(50_000)}, {}, 1, 0.0)
        return float(world.stack.defenses[0].on_upload(zero, here).tensors["w"].std())

    assert deviation(2) == pytest.approx(3**0.5 * deviation(0))
    with pytest.raises(ScenarioError, match="colluding is 3, but a sum may hold 3"):
        deviation(3)


@pytest.mark.parametrize(
    ("tables", "settings", "reason"),
    [
        ({}, {"name": "distributed-dp"}, r"Add \[secure_aggregation\], or use local-dp"),
        (SECURE, {"name": "distributed-dp", "noise_multiplier": 100.0}, "Widen the range"),
        (
            {**SECURE, "secure_aggregation": {"mode": "ideal", "levels": 64}},
            {"name": "distributed-dp", "noise_multiplier": 0.1},
            "below two steps of rounding",
        ),
        (SECURE, {"name": "distributed-dp", "delta": 0.5}, "expected below 1/4"),
        ({}, {"name": "local-dp", "delta": 0.5}, "expected below 1/4"),
    ],
)
def test_what_breaks_the_guarantee_is_refused(scenario: Build, tables, settings, reason) -> None:
    world = worlds.build(scenario(**tables, defenses=[settings]))
    with pytest.raises(ScenarioError, match=reason):
        world.check()


def test_models_with_running_statistics_are_refused_and_left_as_they_were() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    before = {name: t.clone() for name, t in model.state_dict().items()}
    assert "training changes the buffer '1.running_mean'" in (why_buffers_move(model, torch.ones(3, 4)) or "")
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert why_buffers_move(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), torch.ones(3, 4)) is None


def test_a_secure_sum_of_noisy_clients_runs_with_a_client_missing(scenario: Build, tmp_path: Path) -> None:
    built = scenario(
        **SECURE,
        federation={"rounds": 2},
        participation={"crashing": [2]},
        defenses=[{"name": "distributed-dp", "noise_multiplier": 2.0, "clip": 0.25}],
        attacks=[],
    )
    arm = recorded(built, tmp_path).arms[0]
    assert [len(entry.failures) for entry in arm.rounds] == [1, 1]
    (found,) = arm.guarantees
    assert found.epsilon == pytest.approx(gaussian_epsilon(math.sqrt(2) / 1.0, 1e-5))
    assert "secure sums" in found.against


@pytest.mark.parametrize("target", [0.2, 0.5, 1.0])
def test_local_dp_needs_no_more_noise_than_the_classical_formula(target: float) -> None:
    """sigma = 2S sqrt(2 ln(1.25 / delta)) / epsilon is enough for epsilon of at most 1, with 2S as the sensitivity."""
    delta = 1e-5
    classical = 2.0 * math.sqrt(2.0 * math.log(1.25 / delta)) / target
    assert 0.5 * target < gaussian_epsilon(2.0 / classical, delta) <= target
    tensors = {"w": torch.zeros(200_000)}
    noise = sent(make("local-dp", clip=1.0, target_epsilon=target, delta=delta), tensors).tensors["w"]
    assert float(noise.std()) < classical
    assert gaussian_epsilon(2.0 / float(noise.std()), delta) == pytest.approx(target, rel=0.02)
    assert gaussian_epsilon(2.0 / (classical / 2.0), delta) > target  # as if S were the sensitivity
