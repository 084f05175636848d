"""A certificate against the bins as they are counted by hand: it is never wrong, and rarely missing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsim.core import seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.types import InputSpec
from tests.attacks.malicious_server.servers import SHAPE, observed
from tests.attacks.solving import answer, attack_named, resending, sending
from tests.federating import watched

NAME = "certified-bins"
SPEC = InputSpec(SHAPE, 4, (0.5,) * 3, (0.2,) * 3)


def network(rate: float) -> nn.Module:
    with seeding.isolate_randomness(2):
        return nn.Sequential(nn.Flatten(), nn.Linear(48, 20), nn.ReLU(), nn.Dropout(rate), nn.Linear(20, 4))


def crafted(attack, model: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(1000 + seed)
    public = torch.randn((500, *SHAPE), generator=generator, dtype=torch.float64)
    return attack.craft(model, SPEC, public, generator)


def companions(model: nn.Module, inputs: torch.Tensor, bins: int, gain: float = 1e5) -> list[int]:
    """How many examples are in the bin of each, by brute force; 0 where it is in none."""
    with torch.no_grad():
        measured = model[0].measure(inputs.flatten(1))[:, :bins] * gain  # type: ignore[union-attr, operator]
    places = [[i for i, z in enumerate(row) if 0 < z < 1] for row in measured.tolist()]
    flat = [place[0] if len(place) == 1 else -1 for place in places]
    return [0 if own < 0 else flat.count(own) for own in flat]


@settings(max_examples=8, deadline=None)
@given(
    bins=st.integers(2, 40),
    batch_size=st.integers(2, 24),
    seed=st.integers(0, 10_000),
    rate=st.sampled_from([0.0, 0.5]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_a_certified_guess_is_an_example_that_is_alone_in_its_bin(bins, batch_size, seed, rate, dtype):
    attack = attack_named(NAME, bins=bins)
    model = crafted(attack, network(rate), seed)
    observation, truth = observed(model.to(dtype), batch_size, seed, dtype)
    guess, inputs = answer(attack, observation), truth.batches[0].inputs
    errors = (inputs[:, None] - guess.inputs[None]).abs().flatten(2).amax(2)
    bound = 1e-8 if dtype is torch.float64 else 1e-2  # float32: rounding of quotients, of a thousandth at most
    alone = [count == 1 for count in companions(model, inputs, bins)]
    found = (errors < bound).any(1).tolist() if len(guess.inputs) else [False] * batch_size
    if rate == 0.0:  # dropout may leave a companion without a gradient
        assert all(is_alone for is_alone, is_found in zip(alone, found, strict=True) if is_found)
    assert sum(found) == len(guess.inputs) == guess.diagnostics["certified"]
    if dtype is torch.float64 and rate == 0.0:
        assert found == alone


def test_two_examples_of_one_bin_are_not_certified_and_one_that_is_there_twice_is() -> None:
    attack = attack_named(NAME, bins=2, uncertified=True)
    mixed = 0
    for seed in range(12):
        model = crafted(attack, network(0.0), seed)
        observation, truth = observed(model, 6, seed, torch.float32)
        guess = answer(attack, observation)
        assert guess.diagnostics["certified"] == companions(model, truth.batches[0].inputs, 2).count(1)
        assert len(guess.inputs) == guess.diagnostics["bins hit"]
        mixed += len(guess.inputs) - int(guess.diagnostics["certified"])
    assert mixed > 12
    inputs = truth.batches[0].inputs[:1].expand(2, *SHAPE)
    (found,) = answer(attack, resending(observation, inputs, torch.tensor([1, 2]))).inputs
    torch.testing.assert_close(found, inputs[0], atol=1e-4, rtol=0)


def test_noise_on_the_wire_leaves_nothing_certified() -> None:
    attack = attack_named(NAME, bins=200)
    observation, _ = observed(crafted(attack, network(0.0)), 8)
    assert answer(attack, observation).diagnostics["certified"] > 0
    generator = torch.Generator().manual_seed(0)
    noisy = {
        name: tensor + 1e-6 * tensor.abs().max() * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        for name, tensor in observation.update.tensors.items()
    }
    guess = answer(attack, sending(observation, noisy))
    assert guess.diagnostics["certified"] == 0
    assert guess.stop_reason.startswith("gave up")


def test_several_steps_of_a_federation_leave_certificates_right() -> None:
    federation = {"algorithm": "fedavg", "local_steps": 3, "batch_size": 8}
    federation["optimizer"] = {"name": "sgd", "learning_rate": 0.01}
    tables = {"data": {"name": "mnist5k", "train": 400, "test": 200}, "federation": federation}
    observation, truth, _ = watched(**tables, threat={"server": "malicious"}, attacks=[{"name": NAME}])
    guess = answer(attack_named(NAME), observation)
    inputs = torch.cat([batch.inputs for batch in truth.batches])
    errors = (inputs[:, None] - guess.inputs[None]).abs().flatten(2).amax(2).amin(0)
    assert len(guess.inputs) >= 8
    assert float(errors.max()) < 1e-2


def test_what_it_cannot_work_on_is_refused() -> None:
    attack = attack_named(NAME)
    honest, _ = observed(network(0.0), 3)
    with pytest.raises(NotApplicable, match="has no imprint"):
        answer(attack, honest)
    for public, reason in ((torch.zeros((0, *SHAPE)), "is the training set"), (torch.ones(9, *SHAPE), "is the same")):
        with pytest.raises(NotApplicable, match=reason):
            attack.craft(network(0.0), SPEC, public, torch.Generator())
