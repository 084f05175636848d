from dataclasses import replace
from pathlib import Path
from typing import Any, final

import pytest
import torch
import torch.nn.functional as F

from fedsim.core import seeding
from fedsim.core.hooks import Defense, HookContext
from fedsim.core.nets.masks import record_masks
from fedsim.core.types import Batch, Config, Memory, MethodDescription, Tensors, Update
from fedsim.federation.client import local_training
from fedsim.scenario import world as worlds
from tests.conftest import Counting
from tests.experiment.running import Build


def oracle(world: worlds.World, **settings: float) -> Tensors:
    """The same local training with torch's own optimizer and a model of its own."""
    model = world.models.new()
    descent = torch.optim.SGD(model.parameters(), **settings)
    for step, batch in enumerate(world.data.batches(1, 0)):
        with record_masks(model, seeding.generator(world.scenario.seed, "dropout", 1, 0, step)):
            loss = F.cross_entropy(model(batch.inputs), batch.labels)
        descent.zero_grad()
        loss.backward()
        descent.step()
    return model.state_dict()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"learning_rate": 0.2}, {"lr": 0.2}),
        ({"learning_rate": 0.1, "momentum": 0.9}, {"lr": 0.1, "momentum": 0.9}),
    ],
)
def test_fedavg_equals_a_plain_training_loop(scenario: Build, ours: dict[str, float], theirs: dict[str, float]) -> None:
    world = worlds.build(
        scenario(
            federation={"algorithm": "fedavg", "local_steps": 5, "batch_size": 8, "optimizer": {"name": "sgd", **ours}}
        )
    )
    update, _ = local_training(world, world.models.first_weights, 1, 0)
    expected = oracle(world, **theirs)
    for parameter, delta in update.tensors.items():
        assert torch.allclose(world.models.first_weights[parameter] - delta, expected[parameter], atol=1e-6)


def test_what_a_client_remembers_is_written_where_the_caller_says(scenario: Build, counting: type[Counting]) -> None:
    world = worlds.build(scenario(defenses=[{"name": "counting"}]))
    memory: Memory = {}
    for round_ in (1, 2):
        local_training(world, world.models.first_weights, round_, 0, memory)
    assert int(memory["defense 0"]["rounds"]) == 2
    forgotten, _ = local_training(world, world.models.first_weights, 1, 0)
    assert forgotten.tensors.keys() == world.models.parameters.keys()
    assert int(memory["defense 0"]["rounds"]) == 2


def test_fedsgd_sends_the_gradient_of_the_recorded_batch_under_the_recorded_masks(scenario: Build) -> None:
    world = worlds.build(scenario(federation={"batch_size": 3}))
    update, truth = local_training(world, world.models.first_weights, 1, 0)
    model = world.models.new()
    with record_masks(model, seeding.generator(world.scenario.seed, "dropout", 1, 0, 0)) as recording:
        loss = F.cross_entropy(model(truth.batches[0].inputs), truth.batches[0].labels)
    for expected, actual in zip(
        torch.autograd.grad(loss, list(model.parameters())), update.tensors.values(), strict=True
    ):
        assert torch.equal(expected, actual)
    for mask, kept in zip(recording.masks, truth.masks[0], strict=True):
        assert torch.equal(mask, kept)
    assert update.examples == 3
    assert update.loss == pytest.approx(float(loss.detach()))


def test_repetition_gives_the_same_bits_whatever_ran_between(scenario: Build) -> None:
    world = worlds.build(scenario(federation={"algorithm": "fedavg", "local_steps": 3, "batch_size": 4}))
    first, _ = local_training(world, world.models.first_weights, 2, 1)
    local_training(world, world.models.first_weights, 1, 3)
    torch.rand(5)
    second, _ = local_training(world, world.models.first_weights, 2, 1)
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)
    other, _ = local_training(world, world.models.first_weights, 3, 1)
    assert any(not torch.equal(first.tensors[name], other.tensors[name]) for name in first.tensors)


def test_augmentations_make_the_batch_that_is_trained_on_and_the_private_one_is_kept(
    scenario: Build,
) -> None:
    tables: dict[str, Any] = {
        "federation": {"batch_size": 4, "algorithm": "fedavg", "local_steps": 4},
        "components": [{"name": "cutmix", "probability": 1.0}, {"name": "label-smoothing"}],
    }
    world = worlds.build(scenario(**tables))
    plain = worlds.build(scenario(**{**tables, "components": []}))
    update, truth = local_training(world, world.models.first_weights, 1, 0)
    before, untouched = local_training(plain, plain.models.first_weights, 1, 0)
    assert len(truth.batches) == len(truth.original_batches) == len(truth.draws) == 4
    assert all(draws for draws in truth.draws)
    for batch, private, theirs in zip(truth.batches, truth.original_batches, untouched.batches, strict=True):
        assert torch.equal(private.inputs, theirs.inputs)
        assert torch.equal(private.labels, theirs.labels)
        assert batch.labels.shape == (4, 10)
    # A pasted part may be empty: this seed changes some of the four batches.
    assert any(
        not torch.equal(own.inputs, kept.inputs)
        for own, kept in zip(truth.batches, truth.original_batches, strict=True)
    )
    assert any(not torch.equal(update.tensors[name], before.tensors[name]) for name in update.tensors)


def test_local_steps_pass_over_the_share_before_they_repeat(scenario: Build) -> None:
    world = worlds.build(
        scenario(federation={"clients": 100, "algorithm": "fedavg", "local_steps": 6, "batch_size": 4})
    )
    share = len(world.data.shares[0])
    seen = [tuple(row.flatten().tolist()) for batch in world.data.batches(1, 0) for row in batch.inputs]
    one_pass = seen[: share - share % 4]
    assert len(set(one_pass)) == len(one_pass)


def test_batch_norm_statistics_travel_as_buffers(scenario: Build) -> None:
    world = worlds.build(
        scenario(
            data={"name": "digits", "size": 32},
            model={"name": "torchvision", "classifier": "resnet18"},
            federation={"batch_size": 2},
        )
    )
    update, _ = local_training(world, world.models.first_weights, 1, 0)
    changed = world.models.load_weights(world.models.first_weights)
    changed(next(world.data.batches(1, 0)).inputs)
    for name, buffer in changed.named_buffers():
        if buffer.is_floating_point():
            assert torch.equal(world.models.first_weights[name] - update.buffers[name], buffer)
    assert any("running_mean" in name for name in update.buffers)


@final
class Drawing(Defense[Config]):
    """Draws in every moment of a step, from its own generator and from torch's global one; changes nothing."""

    def __init__(self) -> None:
        super().__init__(Config())
        self.drawn: list[float] = []
        self.foreign: list[float] = []

    def on_batch(self, batch: Batch, here: HookContext) -> Batch:
        self._draw(here)
        return batch

    def loss(self, outputs: torch.Tensor, here: HookContext) -> torch.Tensor | None:
        self._draw(here)
        return None

    def on_gradient(self, gradient: Tensors, here: HookContext) -> Tensors:
        self._draw(here)
        return gradient

    def on_upload(self, update: Update, here: HookContext) -> Update:
        self._draw(here)
        return update

    def adaptive_view(self) -> MethodDescription:
        return MethodDescription("drawing")

    def _draw(self, here: HookContext) -> None:
        self.drawn.append(float(torch.rand((), generator=here.generator)))
        self.foreign.append(float(torch.rand(())))


def draws(scenario: Build, round_: int, client: int) -> Drawing:
    """What a defense draws in one client's round of two steps."""
    defense = Drawing()
    world = worlds.build(scenario(federation={"algorithm": "fedavg", "local_steps": 2, "batch_size": 4}))
    world = replace(world, stack=replace(world.stack, defenses_as_written=(defense,)))
    local_training(world, world.models.first_weights, round_, client)
    return defense


def test_every_moment_of_every_step_has_a_generator_of_its_own(scenario: Build) -> None:
    drawn = draws(scenario, 1, 0).drawn
    assert len(set(drawn)) == len(drawn) == 2 * 3 + 1


def test_what_foreign_code_draws_differs_by_client_and_round_and_repeats(scenario: Build) -> None:
    first = draws(scenario, 1, 0).foreign
    assert draws(scenario, 1, 0).foreign == first
    others = draws(scenario, 1, 1).foreign + draws(scenario, 2, 0).foreign
    assert not set(first) & set(others)
    assert len(set(others)) == len(others)


@final
class Reading(Defense[Config]):
    """Notes how many examples a batch has that it may change."""

    def __init__(self) -> None:
        super().__init__(Config())
        self.sizes: list[int] = []

    def on_batch(self, batch: Batch, here: HookContext) -> Batch:
        self.sizes.append(len(batch))
        return batch

    def adaptive_view(self) -> MethodDescription:
        return MethodDescription("reading")


def test_a_defense_of_batches_sees_none_that_is_empty(scenario: Build) -> None:
    defense = Reading()
    world = worlds.build(scenario(federation={"sampling": "poisson", "batch_size": 1}))
    world = replace(world, stack=replace(world.stack, defenses_as_written=(defense,)))
    rounds = [local_training(world, world.models.first_weights, round_, 0)[1] for round_ in range(1, 9)]
    sizes = [len(batch) for truth in rounds for batch in truth.batches]
    assert 0 in sizes
    assert defense.sizes == [size for size in sizes if size]


def test_what_the_loss_does_not_depend_on_has_a_gradient_of_zeros(
    scenario: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "idle_net.py").write_text(
        "from torch import nn\n"
        "class Idle(nn.Sequential):\n"
        "    def __init__(self):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, 10))\n"
        "        self.idle = nn.Linear(2, 3)\n"
        "    def forward(self, x):\n"
        "        return self[1](self[0](x))\n"
        "def make(spec):\n"
        "    return Idle()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    world = worlds.build(scenario(model={"name": "idle_net:make"}))
    update, _ = local_training(world, world.models.first_weights, 1, 0)
    assert torch.equal(update.tensors["idle.weight"], torch.zeros(3, 2))
    assert update.tensors["1.weight"].any()


def test_terms_of_the_loss_are_added_to_it(scenario: Build) -> None:
    """The proximal term pulls towards the received weights: its gradient is mu times the distance to them."""
    mu, rate = 5.0, 0.1
    tables: dict[str, Any] = {
        "federation": {
            "algorithm": "fedavg",
            "local_steps": 2,
            "batch_size": 8,
            "optimizer": {"name": "sgd", "learning_rate": rate},
        },
        "components": [{"name": "fedprox", "mu": mu}],
        "model": {"dropout": 0.0},
    }
    world = worlds.build(scenario(**tables))
    plain = worlds.build(scenario(**{**tables, "components": []}))
    one = {**tables, "components": [], "federation": {**tables["federation"], "local_steps": 1}}
    first, both = (
        local_training(w, w.models.first_weights, 1, 0)[0].tensors for w in (worlds.build(scenario(**one)), plain)
    )
    pulled = local_training(world, world.models.first_weights, 1, 0)[0].tensors
    for name, delta in pulled.items():
        # After the first step the distance is -delta of that step, so the pull takes mu * rate of it back.
        assert torch.allclose(delta, both[name] - mu * rate * first[name], atol=1e-6)  # rounding of float32 steps


@final
class Overwriting(Defense[Config]):
    """Writes into the weights that it is shown."""

    def on_gradient(self, gradient: Tensors, here: HookContext) -> Tensors:
        for name in here.received_weights:
            here.received_weights[name].zero_()
        return gradient

    def adaptive_view(self) -> MethodDescription:
        return MethodDescription("overwriting")


def test_a_hook_cannot_change_the_weights_that_others_received(scenario: Build) -> None:
    world = worlds.build(scenario(federation={"algorithm": "fedavg", "local_steps": 2, "batch_size": 4}))
    received = {name: tensor.clone() for name, tensor in world.models.first_weights.items()}
    plain, _ = local_training(world, received, 1, 0)
    overwriting = replace(world.stack, defenses_as_written=(Overwriting(Config()),))
    update, _ = local_training(replace(world, stack=overwriting), received, 1, 0)
    for name, tensor in world.models.first_weights.items():
        assert torch.equal(received[name], tensor)
    for name, tensor in plain.tensors.items():
        assert torch.equal(update.tensors[name], tensor)
