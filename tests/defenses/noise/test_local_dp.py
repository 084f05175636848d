"""Local differential privacy: noise, neighbours and epsilon."""

import math
from pathlib import Path

import pytest
import torch

from fedsim.privacy.accounting import gaussian_epsilon
from fedsim.scenario import world as worlds
from tests.defenses.noise.uploads import make, sent
from tests.federating import recorded, scenario


@pytest.mark.paper_step("local-dp", "noise on a clipped update")
def test_the_mean_of_local_uploads_has_a_variance_that_is_smaller_by_their_number() -> None:
    defense, clients = make("local-dp", clip=0.5, noise_multiplier=2.0), 16
    uploads = torch.stack([sent(defense, {"w": torch.zeros(20_000)}, seed=c).tensors["w"] for c in range(clients)])
    assert float(uploads[0].var()) == pytest.approx(1.0, rel=0.05)
    assert float(uploads.mean(0).var()) == pytest.approx(1.0 / clients, rel=0.05)


def test_local_noise_costs_more_than_central_noise_on_the_mean_of_the_same_accuracy() -> None:
    """For one noise on the mean, central noise on the sum of m clients is sqrt(m) times one client's own."""
    clients, sigma = 4, 8.0
    local = worlds.build(scenario(defenses=[{"name": "local-dp", "noise_multiplier": sigma}]))
    stated = local.facts.client_mechanisms["local-dp"]
    assert (stated.unit, stated.adjacency, stated.sampling_rate) == ("client", "replace", 1.0)
    assert stated.noise_multiplier == sigma / 2  # neighbours are 2S apart
    rule = {"name": "dp-fedavg", "noise_multiplier": sigma * clients**0.5}
    central = worlds.build(scenario(aggregation=rule)).facts.server_mechanism
    assert central.noise_multiplier == sigma * clients**0.5 / 2
    cost = gaussian_epsilon(1 / stated.noise_multiplier, 1e-5)
    assert cost > 1.8 * gaussian_epsilon(1 / central.noise_multiplier, 1e-5)


def test_the_record_states_the_local_guarantee_of_all_rounds(tmp_path: Path) -> None:
    built = scenario(federation={"rounds": 4}, defenses=[{"name": "local-dp", "noise_multiplier": 10.0}], attacks=[])
    (found,) = recorded(built, tmp_path).arms[0].guarantees
    assert found.epsilon == pytest.approx(gaussian_epsilon(math.sqrt(4) / 5.0, 1e-5))
    assert (found.unit, found.adjacency, found.accountant) == ("client", "replace", "exact")


def test_a_local_target_is_met_on_the_vectorized_engine_too(tmp_path: Path) -> None:
    federation = {"rounds": 3, "engine": "vectorized"}
    built = scenario(federation=federation, defenses=[{"name": "local-dp", "target_epsilon": 4.0}], attacks=[])
    (found,) = recorded(built, tmp_path).arms[0].guarantees
    assert 3.95 < found.epsilon <= 4.0


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


UPDATE = {"w": torch.tensor([6.0, 0.0])}
BUFFERS = {"bn.running_mean": torch.tensor([0.0, 8.0]), "scale": torch.tensor([5.0])}


def test_running_statistics_are_sent_as_received_or_clipped_and_noised_with_the_weights() -> None:
    """The norm of the weights is 6, with the running mean 10; the buffer that is no statistic never counts."""
    kept = sent(make("local-dp", clip=3.0, noise_multiplier=0.0), UPDATE, BUFFERS)
    assert kept.tensors["w"].tolist() == [3.0, 0.0]
    assert {name: tensor.tolist() for name, tensor in kept.buffers.items()} == {
        "bn.running_mean": [0.0, 0.0],
        "scale": [0.0],
    }
    noised = {"clip": 5.0, "running_statistics": "noised"}
    joint = sent(make("local-dp", **noised, noise_multiplier=0.0), UPDATE, BUFFERS)
    assert joint.tensors.keys() == UPDATE.keys()
    assert joint.tensors["w"].tolist() == [3.0, 0.0]
    assert joint.buffers["bn.running_mean"].tolist() == [0.0, 4.0]
    assert joint.buffers["scale"].tolist() == [0.0]
    loud = sent(make("local-dp", **noised, noise_multiplier=2.0), UPDATE, BUFFERS, seed=7)
    numbers = torch.Generator().manual_seed(7)
    assert torch.equal(loud.tensors["w"], joint.tensors["w"] + 10.0 * torch.randn(2, generator=numbers))
    mean = joint.buffers["bn.running_mean"] + 10.0 * torch.randn(2, generator=numbers)
    assert torch.equal(loud.buffers["bn.running_mean"], mean)


def test_noised_statistics_leave_the_description_of_the_update_open() -> None:
    facts = worlds.build(scenario()).facts.federation
    assert make("local-dp").describe_distortion(facts, UPDATE) is not None
    assert make("local-dp", running_statistics="noised").describe_distortion(facts, UPDATE) is None


class Counting(torch.nn.Linear):
    """A layer with a buffer that each call changes."""

    def __init__(self, size: int) -> None:
        super().__init__(size, 4)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(inputs)


def test_batch_normalisation_is_no_reason_to_refuse_and_another_moving_buffer_is() -> None:
    facts = worlds.build(scenario()).facts.federation
    flat, normed = torch.nn.Flatten(), torch.nn.BatchNorm1d(4)
    size = math.prod(facts.shape)
    assert make("local-dp").refuses(facts, torch.nn.Sequential(flat, torch.nn.Linear(size, 4), normed)) is None
    why = make("local-dp").refuses(facts, torch.nn.Sequential(flat, Counting(size), normed))
    assert "training changes the buffer '1.calls'" in (why or "")


def test_neighbours_are_two_clipping_norms_apart() -> None:
    defense = make("local-dp", clip=1.0, noise_multiplier=0.0)
    one, other = (sent(defense, {"w": torch.tensor([sign, 0.0])}).tensors["w"] for sign in (9.0, -9.0))
    assert float(torch.dist(one, other)) == pytest.approx(2.0)
