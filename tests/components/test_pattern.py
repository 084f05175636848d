"""What the house does for every component: asks it, lets it look at public data, writes down what it drew."""

from collections.abc import Callable
from dataclasses import replace
from typing import final

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.core.errors import FedsimError, ScenarioError
from fedsim.core.hooks import Augmentation, HookContext, ModelComponent, Objective, PublicFederation
from fedsim.core.types import Batch, Config, MethodDescription, WireEntry
from fedsim.federation.client import local_training
from fedsim.federation.cohort import check
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from fedsim.scenario.world import World
from fedsim.threat.observe import describe, observe
from fedsim.threat.victim import Victim

Build = Callable[..., Scenario]


@final
class Shift(Augmentation[Config]):
    """Adds one number to every pixel of a batch."""

    def augment(self, batch: Batch, here: HookContext) -> Batch:
        amount = torch.rand((), generator=here.generator)
        here.draws["shift.amount"] = amount
        return Batch(batch.inputs + amount, batch.labels)

    def public_description(self) -> MethodDescription:
        return MethodDescription("shift", settings={"most": 1.0})

    def refuses(self, federation: PublicFederation, model: nn.Module) -> str | None:
        return "it needs two examples" if federation.batch_size < 2 else None


@final
class Doubled(Objective[Config]):
    """Twice the cross-entropy, and as many times more in later rounds."""

    def objective(self, outputs: Tensor, labels: Tensor, round_: int) -> Tensor:
        return 2.0 * round_ * F.cross_entropy(outputs, labels)


@final
class MeanOfPublic(ModelComponent[Config]):
    """Keeps the mean of the public examples in a buffer."""

    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        model.register_buffer("centre", torch.zeros(64))
        return model

    def initialise(self, model: nn.Module, public: Tensor, generator: torch.Generator) -> None:
        model.get_buffer("centre").copy_(public.flatten(1).mean(0))


def world_with(scenario: Build, *components: object) -> World:
    world = worlds.build(scenario())
    return replace(world, stack=replace(world.stack, components=components))


def entry_of(world: World) -> tuple[WireEntry, object]:
    update, truth = local_training(world, world.models.first_weights, 1, 0)
    return WireEntry(1, 0, world.models.first_weights, update), truth


def test_what_a_component_drew_is_kept_and_reaches_the_attacker_only_if_granted(scenario: Build) -> None:
    world = world_with(scenario, Shift(Config()))
    entry, truth = entry_of(world)
    (drawn,) = truth.draws  # type: ignore[attr-defined]
    shifted = truth.batches[0].inputs - truth.original_batches[0].inputs  # type: ignore[attr-defined]
    assert torch.allclose(shifted, drawn["shift.amount"], atol=1e-6)
    assert observe(Victim(world, entry, truth), {"batch-size"}).draws is None  # type: ignore[arg-type]
    granted = observe(Victim(world, entry, truth), {"batch-size", "client-randomness"}).draws  # type: ignore[arg-type]
    assert granted is not None
    assert torch.equal(granted[0]["shift.amount"], drawn["shift.amount"])


def test_an_attacker_learns_of_components_only_if_granted(scenario: Build) -> None:
    world = world_with(scenario, Shift(Config()))
    entry, truth = entry_of(world)
    assert observe(Victim(world, entry, truth), {"batch-size", "defenses"}).known_methods == ()  # type: ignore[arg-type]
    (view,) = observe(Victim(world, entry, truth), {"batch-size", "components"}).known_methods  # type: ignore[arg-type]
    assert (view.source, dict(view.settings)) == ("shift", {"most": 1.0})
    assert any("does not know which components" in sentence for sentence in describe(world))
    assert not any("components" in sentence for sentence in describe(worlds.build(scenario())))


def test_an_objective_takes_the_place_of_the_cross_entropy_for_client_and_attacker(scenario: Build) -> None:
    plain, doubled = worlds.build(scenario()), world_with(scenario, Doubled(Config()))
    once, _ = local_training(plain, plain.models.first_weights, 1, 0)
    twice, truth = local_training(doubled, doubled.models.first_weights, 1, 0)
    for name, tensor in once.tensors.items():
        assert torch.allclose(twice.tensors[name], 2.0 * tensor, atol=1e-6)
    outputs, labels = torch.randn(2, 3), torch.tensor([0, 1])
    entry = WireEntry(3, 0, doubled.models.first_weights, twice)
    seen = observe(Victim(doubled, entry, truth), {"batch-size"})
    assert torch.equal(seen.loss(outputs, labels), 6.0 * F.cross_entropy(outputs, labels))
    with pytest.raises(FedsimError, match="no place for loss terms such as 'Doubled'"):
        check(doubled)


def test_two_objectives_or_a_federation_that_does_not_fit_end_in_one_sentence(scenario: Build) -> None:
    with pytest.raises(ScenarioError, match="Doubled and Doubled both define the client's loss"):
        world_with(scenario, Doubled(Config()), Doubled(Config())).check()
    with pytest.raises(ScenarioError, match=r"component 'shift' does not fit: it needs two examples\."):
        world_with(scenario, Shift(Config()).with_name("shift")).check()


def test_first_values_may_depend_on_public_examples_alone(scenario: Build) -> None:
    world = world_with(scenario, MeanOfPublic(Config()))
    expected = world.data.dataset.test.inputs.flatten(1).mean(0)
    assert torch.equal(world.models.first_weights["centre"], expected)
    assert torch.equal(world.models.new().get_buffer("centre"), expected)
