"""Several components in one client. Driven by the registry: a new file is covered without a change here."""

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch

from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import RUN_AFTERWARDS, Component
from fedsim.federation import cohort
from fedsim.federation.client import local_training
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from fedsim.scenario.world import World

Build = Callable[..., Scenario]
CLIENTS = {
    name: method
    for name, method in registry.methods("component").items()
    if method.hook not in ("optimizer", *RUN_AFTERWARDS)
    and "images" in cast("type[Component[Any]]", method.make).modalities
}
CUTMIX = {"name": "cutmix", "probability": 1.0, "per_sample": True}
MODEL = {"name": "mlp", "width": 32, "depth": 2, "dropout": 0.25, "bias": True}
WHOLE = "works on whole batches, so examples cannot be clipped apart. Leave it out"


def table(name: str) -> dict[str, Any]:
    """The component with its defaults; a setting without one takes its first example."""
    fields = CLIENTS[name].config.model_fields
    needed = {key: field.examples[0] for key, field in fields.items() if field.is_required() and field.examples}
    return {"name": name, **needed}


def world_of(scenario: Build, *components: dict[str, Any], **tables: Any) -> World:
    federation = {"batch_size": 4, "algorithm": "fedavg", "local_steps": 2, **tables.pop("federation", {})}
    return worlds.build(scenario(components=components, federation=federation, model=MODEL, **tables))


def private(scenario: Build, *components: dict[str, Any]) -> World:
    noise = {"name": "dp-sgd", "noise_multiplier": 1.0, "clip": 1.0}
    federation = {"sampling": "poisson"}
    return world_of(scenario, *components, defenses=[noise], federation=federation)


def refusal(attempt: Callable[[], object]) -> str | None:
    try:
        attempt()
    except FedsimError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", [name for name in CLIENTS if name != "cutmix"])
def test_it_trains_beside_cutmix_to_the_same_bits_each_time_or_says_why_not(name: str, scenario: Build) -> None:
    world = world_of(scenario, CUTMIX, table(name))
    reason = refusal(world.check)
    if reason is not None:
        assert name in reason
        return
    update, truth = local_training(world, world.models.first_weights, 1, 0)
    again, _ = local_training(world, world.models.first_weights, 1, 0)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in update.tensors.values())
    assert all(torch.equal(tensor, again.tensors[key]) for key, tensor in update.tensors.items())
    assert any(bool(tensor.any()) for tensor in update.tensors.values())
    assert all("cutmix.boxes" in draws for draws in truth.draws)


@pytest.mark.parametrize("name", CLIENTS)
def test_many_clients_at_once_equal_one_after_the_other_or_the_engine_says_why_not(name: str, scenario: Build) -> None:
    """`check` trains two clients both ways, and compares them within the engine's stated rounding."""
    beside = [] if name == "cutmix" else [CUTMIX]
    world = world_of(scenario, *beside, table(name))
    reason = refusal(lambda: cohort.check(world))
    if reason is not None:
        assert reason.endswith("Use engine = 'local'.") or f"component '{name}'" in reason  # or it has no place there
        return
    clients = [0, 1, 2]
    together = cohort.cohort_training(world, world.models.first_weights, 1, clients, [{} for _ in clients])
    for client, vector in zip(clients, together.vectors, strict=True):
        alone, _ = local_training(world, world.models.first_weights, 1, client)
        expected = world.models.layout.flat(alone.tensors, alone.buffers)
        assert torch.dist(vector, expected) <= cohort.ROUNDING * expected.norm()


@pytest.mark.parametrize("name", CLIENTS)
def test_dp_sgd_takes_it_or_says_why_the_guarantee_would_not_hold(name: str, scenario: Build) -> None:
    world = private(scenario, table(name))
    reason = refusal(world.check)
    if reason is not None:
        assert "dp-sgd" in reason or name in reason
        assert reason.rstrip().endswith(".")
        return
    update, _ = local_training(world, world.models.first_weights, 1, 0)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in update.tensors.values())


def test_three_at_once_train_and_each_leaves_its_mark(scenario: Build) -> None:
    codebook = {"name": "codebook", "at": ["2"], "codes": 16, "active": 2, "loss": "base"}
    three = (CUTMIX, {"name": "multi-sample-dropout", "samples": 4}, codebook)
    world = world_of(scenario, *three)
    world.check()
    _, truth = local_training(world, world.models.first_weights, 1, 0)
    model = world.models.load_weights(world.models.first_weights)
    assert model(truth.batches[0].inputs).shape == (4, 4, 10)
    assert any("code" in key for key in world.models.first_weights)
    assert all(bool((batch.labels.sum(1) - 1.0).abs().lt(1e-6).all()) for batch in truth.batches)


def test_cutmix_beside_dropout_needs_no_loop_over_clients(scenario: Build) -> None:
    cohort.check(world_of(scenario, CUTMIX, {"name": "dropout", "rate": 0.4}))


@pytest.mark.parametrize(
    ("component", "told"),
    [
        (CUTMIX, f"CutMix {WHOLE}"),
        ({"name": "codebook", "at": ["2"], "codes": 16}, rf"codebook with loss 'aeloss' \(not with 'base'\) {WHOLE}"),
        ({"name": "fedprox"}, "the loss term FedProx is not clipped. Leave it out"),
    ],
)
def test_dp_sgd_names_what_reads_a_batch_as_a_whole(component: dict[str, Any], told: str, scenario: Build) -> None:
    with pytest.raises(FedsimError, match=told):
        private(scenario, component).check()


def test_dp_sgd_takes_what_treats_every_example_alone(scenario: Build) -> None:
    codebook = {"name": "codebook", "at": ["2"], "codes": 16, "active": 2, "loss": "base"}
    private(scenario, {"name": "multi-sample-dropout", "samples": 2}, codebook).check()
