"""Distributed differential privacy: shares of the noise, collusion, and epsilon of a secure sum."""

import math
from pathlib import Path

import pytest
import torch

from fedsim.core.errors import ScenarioError
from fedsim.core.hooks import HookContext
from fedsim.core.types import Update
from fedsim.privacy.accounting import gaussian_epsilon
from fedsim.privacy.secure_aggregation.config import SecureAggregation
from fedsim.scenario import world as worlds
from tests.defenses.noise.uploads import SECURE
from tests.federating import recorded, scenario


@pytest.mark.paper_step("distributed-dp", "share of the noise by the fewest clients in a sum")
def test_shares_of_the_noise_add_up_to_the_promise_in_the_smallest_sum() -> None:
    """Secure aggregation of four clients opens sums of three or four: three shares are the promise, four exceed it."""
    world = worlds.build(
        scenario(**SECURE, defenses=[{"name": "distributed-dp", "clip": 0.5, "noise_multiplier": 2.0}])
    )
    assert world.facts.federation.smallest_sum == SecureAggregation().survivors_needed(4) == 3
    defense = world.stack.defenses[0]
    zero = Update("gradient", {"w": torch.zeros(50_000)}, {}, 1, 0.0)
    shares = [
        defense.on_upload(
            zero, HookContext(1, c, 1, torch.Generator().manual_seed(c), federation=world.facts.federation)
        ).tensors["w"]
        for c in range(4)
    ]
    assert float(torch.stack(shares[:3]).sum(0).std()) == pytest.approx(2.0 * 0.5, rel=0.02)
    assert float(torch.stack(shares).sum(0).std()) > 1.1 * 2.0 * 0.5
    assert world.facts.client_mechanisms["distributed-dp"].noise_multiplier == 1.0


@pytest.mark.parametrize(
    "participation", [{"sampling": "poisson", "fraction": 0.9}, {"availability": 0.9}], ids=["poisson", "availability"]
)
def test_where_cohorts_may_be_small_only_two_shares_are_relied_on(participation) -> None:
    world = worlds.build(scenario(**SECURE, participation=participation, defenses=[{"name": "distributed-dp"}]))
    assert world.facts.federation.smallest_sum == 2


def test_colluding_clients_add_no_noise() -> None:
    def deviation(colluding: int) -> float:
        settings = {"name": "distributed-dp", "colluding_clients": colluding, "clip": 0.25}
        world = worlds.build(scenario(**SECURE, defenses=[settings]))
        world.check()
        here = HookContext(1, 0, 1, torch.Generator().manual_seed(0), federation=world.facts.federation)
        zero = Update("gradient", {"w": torch.zeros(50_000)}, {}, 1, 0.0)
        return float(world.stack.defenses[0].on_upload(zero, here).tensors["w"].std())

    assert deviation(2) == pytest.approx(3**0.5 * deviation(0))
    with pytest.raises(ScenarioError, match="colluding_clients is 3, but a sum may hold 3"):
        deviation(3)


@pytest.mark.paper_step("distributed-dp", "secure sum of rounded updates")
def test_a_secure_sum_of_noisy_clients_runs_with_a_client_missing(tmp_path: Path) -> None:
    built = scenario(
        **SECURE,
        federation={"rounds": 2},
        participation={"always_crash": [2]},
        defenses=[{"name": "distributed-dp", "noise_multiplier": 2.0, "clip": 0.25}],
        attacks=[],
    )
    arm = recorded(built, tmp_path).arms[0]
    assert [len(entry.failures) for entry in arm.rounds] == [1, 1]
    (found,) = arm.guarantees
    assert found.epsilon == pytest.approx(gaussian_epsilon(math.sqrt(2) / 1.0, 1e-5))
    assert "secure sums" in found.adversary
