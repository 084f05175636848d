"""Clients, replay and attacks on another device: the same numbers, and no tensor left behind.

The other device is that of `tests.elsewhere`, which every machine has; what is marked `cuda` runs where a GPU is.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedsim.core import registry, seeding
from fedsim.core.devices import CPU, ROUNDING, DeviceScope, creating_on, device_of, find_device, move
from fedsim.core.errors import FedsimError
from fedsim.core.types import Batch, Observation, Reconstruction, Truth, Update, WireEntry
from fedsim.federation.client import local_training
from fedsim.federation.cohort import cohort_training
from fedsim.processes.methods import InProcessRunner, search
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from fedsim.threat.observe import observe
from fedsim.threat.replay import replay
from fedsim.threat.scoring import score
from fedsim.threat.victim import Victim
from tests.conftest import KNOWN
from tests.elsewhere import ELSEWHERE, Far, far, second_device

Build = Callable[..., Scenario]
Watched = Callable[..., tuple[Observation, Truth, worlds.World]]


def numbers(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_second_device_is_as_strict_as_a_gpu() -> None:
    with second_device():
        there = far(torch.ones(3))
        with pytest.raises(RuntimeError, match="expected all tensors on one device"):
            _ = there + torch.ones(3)
        with pytest.raises(RuntimeError, match="expected a generator of the other device"):
            torch.rand(3, device=ELSEWHERE, generator=numbers())
        with pytest.raises(RuntimeError, match="expected a generator of the other device"):
            there.uniform_(generator=numbers())
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()
        with pytest.raises(RuntimeError, match="must be 'gels'"):
            torch.linalg.lstsq(there[:, None], there[:, None], driver="gelsd")
        assert torch.equal((there + 1.0).to(CPU), torch.full((3,), 2.0))


def test_an_absent_device_is_one_sentence_and_auto_takes_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") == CPU
    with pytest.raises(FedsimError, match=r"'cuda' is not available: .* Set device = 'cpu', or 'auto'"):
        find_device("cuda")
    with pytest.raises(FedsimError, match="'cuda' is not available"):
        device_of("cuda")
    with pytest.raises(FedsimError, match="unknown device 'cudo'. Expected any of: auto, cpu, cuda"):
        device_of("cudo")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find_device("auto") == find_device("cuda") == torch.device("cuda")


DRAWN: dict[str, Callable[[torch.Generator], Tensor]] = {
    "rand": lambda g: torch.rand(3, 2, generator=g),
    "randn": lambda g: torch.randn((3, 2), generator=g, dtype=torch.float64),
    "randint": lambda g: torch.randint(5, (4,), generator=g),
    "randperm": lambda g: torch.randperm(6, generator=g),
    "normal": lambda g: torch.normal(1.0, 2.0, (4,), generator=g),
    "bernoulli": lambda g: torch.bernoulli(torch.full((8,), 0.5), generator=g),
    "multinomial": lambda g: torch.ones(4).multinomial(2, generator=g),
    "uniform_": lambda g: torch.zeros(4).uniform_(-1.0, 1.0, generator=g),
    "exponential_": lambda g: torch.zeros(4).exponential_(generator=g),
    "kaiming": lambda g: nn.init.kaiming_uniform_(torch.zeros(3, 4), generator=g),
}


@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
def test_what_is_drawn_elsewhere_is_what_the_cpu_draws(draw: Callable[[torch.Generator], Tensor]) -> None:
    with second_device(), creating_on(ELSEWHERE):
        drawn = draw(numbers())
        assert isinstance(drawn, Far)
    assert torch.equal(drawn.here, draw(numbers()))


def test_what_is_created_in_a_placed_block_is_there_and_numpy_gets_a_copy() -> None:
    with second_device(), creating_on(ELSEWHERE):
        made = torch.zeros(2), torch.arange(3), torch.tensor([1.0, 2.0]), torch.eye(2), nn.Linear(2, 2).weight
        assert all(isinstance(own, Far) for own in made)
        assert torch.zeros(2, device="cpu").device == CPU
        assert made[2].numpy().tolist() == np.asarray(made[2]).tolist() == [1.0, 2.0]
        rows = torch.tensor([[1.0, 1.0], [1.0, 1.0]])
        solved = torch.linalg.lstsq(rows, rows[:, :1], driver="gelsd")
        assert isinstance(solved.solution, Far)
        assert solved.solution.tolist() == [[pytest.approx(0.5)], [pytest.approx(0.5)]]


def test_on_the_cpu_nothing_changes() -> None:
    value = {"a": (torch.ones(2), [Batch(torch.ones(1), torch.zeros(1))])}
    assert move(value, CPU) is value
    with DeviceScope(CPU) as there:
        assert there.to_device(value) is there.to_cpu(value) is value
        assert not torch.overrides._get_current_function_mode_stack()


def test_what_is_shared_before_a_move_is_shared_behind_it_and_a_module_is_copied() -> None:
    tensor, model = torch.ones(2, requires_grad=True), nn.Linear(2, 2)
    with second_device():
        twice, layer, batch = move(((tensor, tensor), model, Batch(tensor, tensor)), ELSEWHERE)
        assert twice[0] is twice[1] is batch.inputs
        assert twice[0].requires_grad
        assert isinstance(batch, Batch)
        assert all(isinstance(parameter, Far) for parameter in layer.parameters())
        assert all(type(parameter.data) is Tensor for parameter in model.parameters())
        assert type(move(twice, CPU)[0]) is Tensor


def test_a_stay_within_a_stay_does_nothing_and_who_is_told_is_outside() -> None:
    told: list[Tensor] = []

    def tell(value: Tensor) -> None:
        told.extend((value, torch.zeros(2), torch.rand(2, generator=numbers())))

    with second_device(), DeviceScope(ELSEWHERE) as outer:
        there = outer.to_device(torch.ones(2))
        with DeviceScope(ELSEWHERE) as inner:
            assert inner.to_device(there) is inner.to_cpu(there) is there
            outer.outside(tell)(there)
            assert isinstance(torch.zeros(2), Far)
        assert isinstance(torch.zeros(2), Far)
    assert [type(own) for own in told] == [Tensor] * 3
    assert torch.equal(told[2], torch.rand(2, generator=numbers()))


MOMENTUM = {"name": "adam", "learning_rate": 0.01}
CLIENTS: dict[str, dict[str, Any]] = {
    "dropout": {"federation": {"batch_size": 2}},
    "steps that go on": {
        "federation": {"algorithm": "fedavg", "local_steps": 2, "optimizer": MOMENTUM, "keep_optimizer_state": True},
        "model": {"name": "convnet"},
    },
    "noise": {"defenses": [{"name": "gradient-noise", "scale": 0.1}, {"name": "soteria", "rate": 0.3}]},
    "mixed": {"federation": {"batch_size": 2}, "components": [{"name": "cutmix", "probability": 1.0}]},
    "prefixes": {"components": [{"name": "nested-dropout", "eta": 4.0}]},
    "private": {"defenses": [{"name": "dp-sgd", "clip": 1.0, "noise_multiplier": 1.0}]},
}


def trained(built: Scenario, device: torch.device) -> tuple[Update, Truth, Any]:
    """Two rounds of a client that remembers."""
    world, memory = worlds.build(built), {}
    world.__dict__["device"] = device
    local_training(world, world.models.first_weights, 1, 0, memory)
    return *local_training(world, world.models.first_weights, 2, 0, memory), memory


@pytest.mark.parametrize("tables", CLIENTS.values(), ids=CLIENTS)
def test_a_client_elsewhere_sends_the_same_bits_and_gives_everything_back(
    tables: dict[str, Any], scenario: Build
) -> None:
    built = scenario(**tables)
    update, truth, memory = trained(built, CPU)
    with second_device():
        ours, own_truth, own_memory = trained(built, ELSEWHERE)
    assert all(torch.equal(ours.tensors[name], tensor) for name, tensor in update.tensors.items())
    assert all(type(own) is Tensor for own in (*ours.tensors.values(), *ours.buffers.values()))
    assert torch.equal(own_truth.original_batches[0].inputs, truth.original_batches[0].inputs)
    assert torch.equal(own_truth.batches[0].inputs, truth.batches[0].inputs)
    assert all(torch.equal(mask, old) for mask, old in zip(own_truth.masks[0], truth.masks[0], strict=True))
    assert {who: {name: own.tolist() for name, own in kept.items()} for who, kept in own_memory.items()} == {
        who: {name: own.tolist() for name, own in kept.items()} for who, kept in memory.items()
    }
    assert bool(memory) is ("keep_optimizer_state" in tables.get("federation", {}))


def test_a_cohort_elsewhere_sends_the_same_bits(scenario: Build) -> None:
    built = scenario(federation={"algorithm": "fedavg", "local_steps": 2, "batch_size": 2, "engine": "vectorized"})
    sent: list[Tensor] = []
    for device in (CPU, ELSEWHERE):
        world = worlds.build(built)
        world.__dict__["device"] = device
        with second_device():
            sent.append(cohort_training(world, world.models.first_weights, 1, (0, 1), ({}, {})).vectors)
    assert type(sent[1]) is Tensor
    assert torch.equal(*sent)


ATTACKS: dict[str, dict[str, Any]] = {
    "closed-form-linear": {"federation": {"batch_size": 1}},
    "spear": {"federation": {"batch_size": 2}, "model": {"name": "mlp", "width": 64, "depth": 2}},
    "ig": {},
}
ON_GPU = ATTACKS | {"gauss-newton": {"model": {"name": "mlp", "width": 16, "depth": 2, "activation": "gelu"}}}


def few(name: str) -> Any:
    method = registry.get("attack", name)
    settings = {"max_iterations": 4, "restarts": 1}
    return method.make(
        method.config.model_validate({k: n for k, n in settings.items() if k in method.config.model_fields})
    )


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_elsewhere_finds_the_same_bits(name: str, watched: Watched) -> None:
    observation, _, _ = watched(**ATTACKS[name])
    attack = few(name)
    here = attack(observation, seeding.generator(1, "attack"))
    shown: list[Tensor] = []
    with second_device():
        there = attack(
            replace(observation, device=ELSEWHERE),
            seeding.generator(1, "attack"),
            lambda step: shown.append(step.guess),
        )
    assert torch.equal(there.inputs, here.inputs)
    assert torch.equal(there.labels, here.labels)
    assert there.objective == here.objective
    assert all(type(own) is Tensor for own in (there.inputs, there.labels, *(there.masks or ()), *shown))


def test_an_attack_that_leaves_a_tensor_behind_is_seen(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    observation, _, _ = watched()
    attack = few("closed-form-linear")

    def careless(seen: Observation, _generator: torch.Generator, _tell: object) -> Reconstruction:
        return Reconstruction.of(torch.zeros(64, device="cpu") + next(iter(seen.update.tensors.values()))[0])

    monkeypatch.setattr(attack, "search", careless)
    with second_device():
        found = search(InProcessRunner(attack), [replace(observation, device=ELSEWHERE)], [numbers()])
    assert isinstance(found, str)
    assert "expected all tensors on one device" in found


def test_a_replay_elsewhere_matches_what_was_sent_and_scores_are_the_same(scenario: Build) -> None:
    scores: list[Any] = []
    for device in (CPU, ELSEWHERE):
        world = worlds.build(scenario())
        world.__dict__["device"] = device
        with second_device():
            update, _ = local_training(world, world.models.first_weights, 1, 0)
            entry = WireEntry(1, 0, world.models.first_weights, update)
            replayed = replay(world, entry)
            victim = Victim(world, entry, replayed.truth)
            seen = observe(victim, KNOWN)
            assert seen.device == device
            assert replayed.matches
            found = search(InProcessRunner(few("closed-form-linear")), [seen], [numbers()])
            assert not isinstance(found, str)
            scores.append(score(victim, found[0])[0].values)
    assert scores[0] == scores[1]


@pytest.mark.cuda
@pytest.mark.parametrize("tables", CLIENTS.values(), ids=CLIENTS)
def test_a_client_on_a_gpu_sends_the_same_within_rounding(tables: dict[str, Any], scenario: Build) -> None:
    built = scenario(**tables)
    (here, _, _), (there, _, _) = (trained(built, device) for device in (CPU, torch.device("cuda")))
    layout = worlds.build(built).models.layout
    ours, theirs = (layout.flat(own.tensors, own.buffers) for own in (there, here))
    assert ours.device == CPU
    assert torch.dist(ours, theirs) <= ROUNDING * theirs.norm()


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["closed-form-linear", "spear", "gauss-newton"])
def test_an_exact_attack_on_a_gpu_finds_the_same(name: str, watched: Watched) -> None:
    observation, _, _ = watched(**ON_GPU[name])
    here = few(name)(observation, seeding.generator(1, "attack"))
    there = few(name)(replace(observation, device=torch.device("cuda")), seeding.generator(1, "attack"))
    assert there.inputs.device == CPU
    assert torch.dist(there.inputs, here.inputs) <= ROUNDING * here.inputs.norm()
