"""Every moment at which a defense may act, in the order of the hooks, and batches by Poisson sampling."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.core import registry
from fedsim.core.errors import ClientRefusal, FedsimError, ScenarioError
from fedsim.core.hooks import Defense, HookContext, Place, PublicFederation
from fedsim.core.types import Batch, Config, MethodDescription, Tensors, Update
from fedsim.federation.client import local_training
from fedsim.scenario import world as worlds
from tests.experiment.running import Build
from tests.federating import recorded, run


class Plain(Defense[Config]):
    """Does nothing."""

    def adaptive_view(self) -> MethodDescription:
        return MethodDescription("plain")


class Deepening(Plain):
    place: ClassVar[Place] = "model"

    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        return nn.Sequential(model, nn.Linear(10, 10))


class Wary(Plain):
    """Refuses weights in which a number stands out, and looks at them once more with its batch."""

    place: ClassVar[Place] = "received"

    def on_received(self, received: Tensors, here: HookContext) -> None:
        assert len(here.local.batch) == 1
        for name, parameter in here.local.parameters.items():
            assert torch.equal(parameter, received[name])
            parameter.data.zero_()  # the client's own step is on the received weights all the same
        if here.client in (1, 2):
            raise ClientRefusal("this client trusts nobody")


class Broken(Plain):
    def on_received(self, received: Tensors, here: HookContext) -> None:
        raise ZeroDivisionError("a check that fails")


class Brightening(Plain):
    place: ClassVar[Place] = "batch"

    def on_batch(self, batch: Batch, here: HookContext) -> Batch:
        assert here.local.batch is batch
        return replace(batch, inputs=batch.inputs + 1.0, labels=F.one_hot(batch.labels, 10).float())


class Shrinking(Plain):
    place: ClassVar[Place] = "model"

    def loss(self, outputs: Tensor, here: HookContext) -> Tensor:
        return outputs.square().sum()


class PerExample(Plain):
    place: ClassVar[Place] = "examples"

    def on_examples(self, losses: Callable[[], Tensor], here: HookContext) -> tuple[float, Tensors]:
        parameters = here.local.parameters
        if not len(here.local.batch):
            return float("nan"), {name: torch.ones_like(p) for name, p in parameters.items()}
        mean = losses().mean()
        gradients = torch.autograd.grad(mean, list(parameters.values()))
        return mean.item(), dict(zip(parameters, gradients, strict=True))


class Repeating(Plain):
    """Computes the gradient once more, under the masks of the step."""

    needs_step: ClassVar[bool] = True
    seen: ClassVar[list[float]] = []

    def on_gradient(self, gradient: Tensors, here: HookContext) -> Tensors:
        local = here.local
        with local.apply_masks():
            loss = F.cross_entropy(local.model(local.batch.inputs), local.batch.labels)
        again = torch.autograd.grad(loss, list(local.parameters.values()))
        self.seen.append(max(float((a - b).abs().max()) for a, b in zip(again, gradient.values(), strict=True)))
        return gradient


class Halving(Plain):
    place: ClassVar[Place] = "noise"

    def on_gradient(self, gradient: Tensors, here: HookContext) -> Tensors:
        return {name: g * 0.5 for name, g in gradient.items()}


class Signing(Plain):
    place: ClassVar[Place] = "rounding"

    def on_gradient(self, gradient: Tensors, here: HookContext) -> Tensors:
        return {name: g.sign() for name, g in gradient.items()}


class Choosy(Plain):
    def refuses(self, federation: PublicFederation, model: nn.Module) -> str | None:
        return f"it wants more than {federation.clients} clients" if federation.clients < 9 else None


@pytest.fixture(autouse=True)
def defenses(own_methods: None) -> None:
    for kind in (Wary, Broken, Deepening, Brightening, Shrinking, PerExample, Repeating, Halving, Signing, Choosy):
        registry.defense(kind.__name__.lower(), summary="for a test")(kind)


def world_with(scenario: Build, *names: str, **tables: Any) -> worlds.World:
    return worlds.build(scenario(defenses=[{"name": name} for name in names], **tables))


def trained(world: worlds.World) -> tuple[Update, Any]:
    return local_training(world, world.models.first_weights, 1, 0)


def test_a_defense_may_change_the_model_before_everybody_gets_it(scenario: Build) -> None:
    world = world_with(scenario, "deepening")
    update, _ = trained(world)
    assert list(update.tensors)[-2:] == ["1.weight", "1.bias"]
    assert world.models.new().state_dict().keys() == world.models.first_weights.keys()


@pytest.mark.parametrize("engine", ["local", "vectorized"])
def test_who_refuses_sends_nothing_and_the_record_says_why(scenario: Build, engine: str) -> None:
    federation = {"engine": engine, "rounds": 2}
    journal = run(scenario(federation=federation, defenses=[{"name": "wary"}], threat={"victims": 4}))
    assert [(f.subject, f.reason, f.cause) for f in journal.rounds[1].failures] == [
        (f"client {number}", "refused: this client trusts nobody", "refused") for number in (1, 2)
    ]
    assert journal.rounds[0].participants == (0, 3)
    assert [entry.client for entry in journal.entries] == [0, 3]
    crashing = {"always_crash": [1, 2]}
    plain = run(scenario(federation=federation, participation=crashing, threat={"victims": 4}))
    assert all(torch.equal(journal.weights[name], tensor) for name, tensor in plain.weights.items())


def test_where_everybody_refuses_the_weights_stay_and_nothing_is_attacked(scenario: Build, tmp_path: Path) -> None:
    tables: dict[str, Any] = {"threat": {"victims": 1}, "attacks": [{"name": "closed-form-linear"}]}
    record = recorded(scenario(defenses=[{"name": "wary"}], participation={"always_crash": [0, 3]}, **tables), tmp_path)
    (arm,) = record.arms
    assert sorted(failure.cause for failure in arm.rounds[0].failures) == ["crash", "crash", "refused", "refused"]
    assert arm.attacks[0].victims == ()


def test_a_check_that_fails_is_an_error_of_its_client(scenario: Build) -> None:
    with pytest.raises(FedsimError, match="every client of the round failed, the first with: .*a check that fails"):
        run(scenario(defenses=[{"name": "broken"}]))


def test_a_changed_batch_is_trained_on_and_the_private_one_is_what_counts(scenario: Build) -> None:
    world = world_with(scenario, "brightening", federation={"batch_size": 3})
    update, truth = trained(world)
    plain, honest = trained(world_with(scenario, federation={"batch_size": 3}))
    (drawn,), (used,) = truth.original_batches, truth.batches
    assert torch.equal(used.inputs, drawn.inputs + 1.0)
    assert used.labels.shape == (3, 10)
    assert torch.equal(drawn.inputs, honest.original_batches[0].inputs)
    assert not torch.equal(next(iter(update.tensors.values())), next(iter(plain.tensors.values())))


def test_a_term_is_added_to_the_loss(scenario: Build) -> None:
    world = world_with(scenario, "shrinking", model={"name": "mlp", "width": 8, "depth": 1, "dropout": 0.0})
    update, truth = trained(world)
    model, batch = world.models.new(), truth.batches[0]
    outputs = model(batch.inputs)
    loss = F.cross_entropy(outputs, batch.labels) + outputs.square().sum()
    for expected, actual in zip(
        torch.autograd.grad(loss, list(model.parameters())), update.tensors.values(), strict=True
    ):
        torch.testing.assert_close(actual, expected)


def test_gradients_of_examples_take_the_place_of_the_plain_one_under_the_same_masks(scenario: Build) -> None:
    federation = {"batch_size": 4}
    update, truth = trained(world_with(scenario, "perexample", federation=federation))
    plain, honest = trained(world_with(scenario, federation=federation))
    assert update.loss == pytest.approx(plain.loss)
    for name, tensor in plain.tensors.items():
        torch.testing.assert_close(update.tensors[name], tensor)
    assert all(torch.equal(a, b) for a, b in zip(truth.masks[0], honest.masks[0], strict=True))


def test_two_defenses_cannot_both_work_on_examples(scenario: Build) -> None:
    with pytest.raises(ScenarioError, match="two defenses clip per-example gradients"):
        world_with(scenario, "perexample", "perexample").check()


def test_a_step_can_be_repeated_with_its_own_masks(scenario: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Repeating, "seen", [])
    trained(world_with(scenario, "repeating", federation={"batch_size": 3}))
    assert Repeating.seen == [0.0]


def test_defenses_act_in_the_order_of_their_places_whatever_the_scenario_says(scenario: Build) -> None:
    forward, _ = trained(world_with(scenario, "halving", "signing"))
    backward, _ = trained(world_with(scenario, "signing", "halving"))
    for name, tensor in forward.tensors.items():
        assert set(tensor.unique().tolist()) <= {-1.0, 0.0, 1.0}
        assert torch.equal(tensor, backward.tensors[name])


def test_a_refusal_is_said_before_any_training(scenario: Build, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="defense 'choosy' does not fit: it wants more than 4 clients"):
        recorded(scenario(defenses=[{"name": "choosy"}]), tmp_path)


@pytest.mark.parametrize("name", ["brightening", "shrinking", "perexample", "repeating"])
def test_the_engine_that_trains_clients_together_refuses_what_needs_a_step(scenario: Build, name: str) -> None:
    with pytest.raises(FedsimError, match=r"'vectorized' does not support the defense .* Use engine = 'local'"):
        run(scenario(federation={"engine": "vectorized"}, defenses=[{"name": name}]))


def test_poisson_batches_hold_each_example_independently(scenario: Build) -> None:
    federation = {"sampling": "poisson", "batch_size": 9, "clients": 40, "algorithm": "fedavg", "local_steps": 200}
    world = worlds.build(scenario(federation=federation))
    share = world.data.shares[0]
    batches = list(world.data.choices(0, torch.Generator().manual_seed(1)))
    rate = 9 / len(share)
    sizes = torch.tensor([float(len(batch)) for batch in batches])
    assert all(len(batch.unique()) == len(batch) for batch in batches)
    assert float(sizes.mean()) == pytest.approx(9, abs=4 * (9 * (1 - rate) / 200) ** 0.5)
    assert float(sizes.var()) == pytest.approx(9 * (1 - rate), rel=0.4)
    for example in share[:5]:
        times = sum(bool((batch == example).any()) for batch in batches)
        assert times == pytest.approx(200 * rate, abs=4 * (200 * rate * (1 - rate)) ** 0.5)


def test_an_empty_batch_is_a_step_without_a_gradient_of_examples(scenario: Build, tmp_path: Path) -> None:
    tables: dict[str, Any] = {
        "federation": {"sampling": "poisson", "batch_size": 1, "clients": 6},
        "threat": {"victims": 6},
        "attacks": [{"name": "closed-form-linear"}],
    }
    record = recorded(scenario(**tables), tmp_path / "plain")
    victims = record.arms[0].attacks[0].victims
    empty = [victim for victim in victims if victim.failure and "no example" in victim.failure]
    assert 0 < len(empty) < 6
    assert [victim.client for victim in victims] == list(range(6))
    assert record.arms[0].replay_matches
    update, _ = local_training(
        world := worlds.build(scenario(**tables)), world.models.first_weights, 1, empty[0].client
    )
    assert (update.examples, update.loss) == (0, 0.0)
    assert not any(tensor.any() for tensor in update.tensors.values())
    defended = world_with(scenario, "perexample", **tables)
    update, _ = local_training(defended, defended.models.first_weights, 1, empty[0].client)
    assert all((tensor == 1.0).all() for tensor in update.tensors.values())
