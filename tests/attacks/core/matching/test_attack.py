"""The attacks that match gradients: their objective, and what each adds to the search."""

from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks.core.matching.comparison import Comparison, GeneralComparison
from attacks.core.matching.ghost import GhostComparison
from attacks.core.matching.priors.total_variation import total_variation
from attacks.core.matching.simulated_client import simulated_client
from attacks.core.matching.unknown_masks import OptimisedMasks, mask_prior
from attacks.core.pixels import pixel_box
from fedsim.core import registry, seeding
from fedsim.core.nets.losses import cross_entropy
from fedsim.core.nets.masks import record_masks
from fedsim.core.time_budget import OUT_OF_TIME
from fedsim.core.types import (
    DropoutSite,
    InputSpec,
    Masks,
    Observation,
    Step,
    Truth,
    WireEntry,
)
from fedsim.federation.client import local_training
from fedsim.models._transformer import VisionTransformer
from fedsim.models.mlp import MlpConfig, mlp
from fedsim.threat.observe import observe
from fedsim.threat.victim import Victim
from tests.attacks.core.matching.measures import cosine
from tests.attacks.solving import attacked, observed
from tests.federating import scenario, watched

KNOWN = ("labels", "batch-size", "dropout-rates", "input-statistics")
PATHS = (GeneralComparison, GhostComparison)
attack = partial(attacked, stream=5)


def by_hand(model: nn.Module, x: torch.Tensor, spec: InputSpec, scale: float = 1.0) -> Observation:
    """An observation of class 1 without any federation, the gradient multiplied by `scale`."""
    label = torch.tensor([1])
    with record_masks(model, torch.Generator().manual_seed(4)) as recording:
        loss = cross_entropy(model(x), label)
    gradient = torch.autograd.grad(loss, list(model.parameters()))
    tensors = {n: scale * g for (n, _), g in zip(model.named_parameters(), gradient, strict=True)}
    return observed(model, spec, tensors, sites=tuple(recording.sites), labels=label)


def compared(path: type[Comparison], observation: Observation, sites: tuple[DropoutSite, ...] | None = None) -> Any:
    client = simulated_client(observation, observation.sites if sites is None else sites, True)
    return path(client, [observation])  # type: ignore[call-arg]


def distance(comparison: Comparison, inputs: Tensor, masks: Masks, labels: Tensor) -> Tensor:
    """1 - cosine of one row."""
    return cosine(comparison.gradients(inputs[None], tuple(mask[None] for mask in masks), labels[None], [0]))[0]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("rate", "least"), [(0.25, 0.1), (0.5, 0.3)])
def test_objective_vanishes_at_the_truth_and_not_without_the_masks(
    rate: float, least: float, path: type[Comparison]
) -> None:
    model = {"name": "mlp", "width": 64, "depth": 3, "dropout": rate}
    observation, truth, _ = watched(model=model, federation={"batch_size": 2})
    batch, comparison = truth.batches[0], compared(path, observation)
    inputs = batch.inputs.clone().requires_grad_()
    assert distance(comparison, inputs, truth.masks[0], batch.labels).item() < 1e-6
    assert distance(comparison, inputs, (), batch.labels).item() > least


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ["mlp", pytest.param("transformer", marks=pytest.mark.slow)])
def test_gradients_of_the_objective_agree_with_finite_differences(kind: str, path: type[Comparison]) -> None:
    spec = InputSpec((1, 4, 4), 3, (0.0,), (1.0,))
    with seeding.isolate_randomness(1):
        model = {
            "mlp": lambda: mlp(MlpConfig(width=6, depth=2), spec),
            "transformer": lambda: VisionTransformer(spec, patch=2, width=8, blocks=1, heads=2, hidden=8, dropout=0.25),
        }[kind]()
    numbers = torch.Generator().manual_seed(2)
    observation = by_hand(model.double(), torch.randn(1, *spec.shape, generator=numbers).double(), spec)
    comparison, unknown = compared(path, observation), OptimisedMasks(sites=observation.sites, weight=0.1)

    def objective(inputs: Tensor, *masks: Tensor) -> Tensor:
        matched = distance(comparison, inputs, masks, torch.tensor([1]))
        smooth = 1e-2 * total_variation(inputs[None])[0]
        return matched + smooth + torch.as_tensor(unknown.prior(tuple(mask[None] for mask in masks)))[0]

    inputs = torch.randn(1, *spec.shape, generator=numbers, dtype=torch.float64, requires_grad=True)
    masks = tuple(
        torch.rand(site.shape, generator=numbers, dtype=torch.float64, requires_grad=True) for site in observation.sites
    )
    assert torch.autograd.gradcheck(objective, (inputs, *masks), eps=1e-6, atol=1e-6)


def test_without_dropout_all_three_attackers_are_one() -> None:
    observation, _, _ = watched(model={"name": "mlp", "width": 24, "depth": 2, "dropout": 0.0}, knows=(*KNOWN, "masks"))
    found = [
        attack(name, observation, max_iterations=60) for name in ("inverting-gradients", "wiig", "dropout-inversion")
    ]
    assert torch.equal(found[0].inputs, found[1].inputs)
    assert torch.equal(found[0].inputs, found[2].inputs)
    assert found[0].history == found[1].history == found[2].history
    assert found[2].masks is None


@pytest.mark.paper_step("dropout-inversion", "inputs in the pixel range, masks in [0, 1]")
@pytest.mark.paper_step("inverting-gradients", "inputs in the pixel range")
def test_dummy_stays_in_its_box_masks_in_theirs_and_the_best_is_the_recorded_minimum() -> None:
    observation, _, _ = watched(federation={"batch_size": 2})
    low, high = pixel_box(observation)
    seen: list[Step] = []

    def check(step: Step) -> None:
        seen.append(step)
        if step.iteration > 1:
            assert bool(((step.guess >= low) & (step.guess <= high)).all())

    found = attack("dropout-inversion", observation, check, max_iterations=80)
    objectives = [step.objective for step in seen]
    assert found.objective == min(objectives) == seen[-1].best
    assert found.best_iteration == 1 + objectives.index(min(objectives))
    assert all(bool(((mask >= 0) & (mask <= 1)).all()) for mask in found.masks)
    for path in PATHS:
        inputs = found.inputs.clone().requires_grad_()
        matched = distance(compared(path, observation), inputs, found.masks, observation.labels)
        prior = mask_prior(tuple(mask[None] for mask in found.masks), [site.rate for site in observation.sites])
        again = matched + 1e-5 * total_variation(inputs[None])[0] + 1e-4 * prior[0]
        assert again.item() == pytest.approx(found.objective, abs=3e-7)  # of a float near 1


@pytest.mark.paper_step("dropout-inversion", "stop rules")
@pytest.mark.parametrize(
    ("settings", "stopped"),
    [
        ({"max_iterations": 5}, "iterations used up"),
        ({"threshold": 10.0}, "objective below threshold"),
        ({"patience": 3, "learning_rate": 1e3, "boxed": False}, "no improvement"),
    ],
)
def test_each_stop_rule(settings: dict[str, Any], stopped: str) -> None:
    observation, _, _ = watched()
    found = attack("inverting-gradients", observation, **{"max_iterations": 400, **settings})
    assert found.stop_reason == stopped


def test_plateau_shrinks_the_step_when_nothing_improves() -> None:
    observation, _, _ = watched()
    moved: list[torch.Tensor] = []
    settings = {"plateau_patience": 3, "learning_rate": 50.0, "boxed": False, "max_iterations": 200, "threshold": 0}
    attack("inverting-gradients", observation, lambda step: moved.append(step.guess.clone()), **settings)
    jumps = [float((b - a).abs().max()) for a, b in pairwise(moved)]
    assert jumps[-1] < 0.05 * jumps[0]


def test_restarts_differ_and_the_lowest_objective_wins() -> None:
    observation, _, _ = watched()
    lows: list[float] = []
    found = attack("inverting-gradients", observation, lambda s: lows.append(s.best), max_iterations=15, restarts=3)
    alone = attack("inverting-gradients", observation, max_iterations=15)
    assert found.objective == min(lows)
    assert found.objective < alone.objective
    assert found.iterations == 45
    assert found.diagnostics["starts"] == 3
    assert 1 <= found.diagnostics["starts that reached the lowest objective"] <= 3


def test_an_objective_that_is_never_a_number_ends_without_an_image() -> None:
    observation, _, _ = watched()
    broken = replace(observation, loss=lambda outputs, labels: cross_entropy(outputs, labels) * torch.nan)
    for name in ("inverting-gradients", "dropout-inversion"):
        found = attack(name, broken, max_iterations=15, restarts=2)
        assert found.stop_reason == "objective is not a number"
        assert not len(found.inputs)
        assert found.masks is None


def test_garbage_in_place_of_the_true_masks_changes_nothing_for_attackers_who_do_not_see_them() -> None:
    from fedsim.scenario import world as worlds

    world = worlds.build(scenario())
    update, truth = local_training(world, world.models.first_weights, 1, 0)
    garbage = Truth(
        truth.batches,
        tuple(tuple(torch.full_like(m, 9.0) for m in step) for step in truth.masks),
        truth.raw,
        truth.original_batches,
    )
    entry = WireEntry(1, 0, world.models.first_weights, update)
    for name in ("inverting-gradients", "dropout-inversion", "ig-train", "ig-mc"):
        honest = attack(name, observe(Victim(world, entry, truth), KNOWN), max_iterations=10)
        blind = attack(name, observe(Victim(world, entry, garbage), KNOWN), max_iterations=10)
        assert torch.equal(honest.inputs, blind.inputs)


def test_unknown_rates_are_assumed() -> None:
    observation, _, _ = watched(knows=("labels", "batch-size", "input-statistics"))
    assert all(site.rate == 0 for site in observation.sites)
    found = attack("dropout-inversion", observation, max_iterations=10, assumed_rate=0.4, first_masks="mean")
    assert found.masks is not None
    started = attack("dropout-inversion", observation, max_iterations=1, assumed_rate=0.4, first_masks="mean")
    assert float(started.masks[0].mean()) == pytest.approx(0.6)


def test_the_scale_of_the_gradient_does_not_matter() -> None:
    """The cosine sees directions: clipping alone protects nothing."""
    spec = InputSpec((1, 2, 3), 3, (0.0,), (1.0,))
    with seeding.isolate_randomness(1):
        flat = nn.Sequential(nn.Flatten(), nn.Linear(6, 3))
    x = torch.rand(1, 1, 2, 3, generator=torch.Generator().manual_seed(3))
    observation = by_hand(flat, x, spec, scale=0.01)
    found = attack("inverting-gradients", observation, max_iterations=400, priors=[])
    assert torch.allclose(found.inputs, x, atol=0.02)


@pytest.mark.parametrize("name", ["inverting-gradients", "wiig", "dropout-inversion"])
def test_both_paths_find_the_same(name: str) -> None:
    observation, _, _ = watched(knows=(*KNOWN, "masks"), federation={"batch_size": 2})
    fast = attack(name, observation, max_iterations=25, sign="off")
    slow = attack(name, observation, max_iterations=25, sign="off", engine="general")
    assert fast.notes == ("gradients compared by the ghost path",)
    assert slow.notes == ("gradients compared by the general path",)
    assert torch.allclose(fast.inputs, slow.inputs, atol=1e-3)
    assert fast.objective == pytest.approx(slow.objective, abs=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["inverting-gradients", "dropout-inversion"])
def test_a_gpu_descends_like_the_processor(name: str) -> None:
    observation, _, _ = watched(federation={"batch_size": 2})
    here, there = (attack(name, observation, max_iterations=20, device=device) for device in ("cpu", "cuda"))
    assert there.inputs.device.type == "cpu"
    assert there.objective == pytest.approx(here.objective, rel=0.1)


def test_a_descent_that_its_deadline_ends_returns_labels_masks_and_its_best_iteration() -> None:
    observation, truth, _ = watched(model={"name": "mlp", "width": 24, "depth": 2, "dropout": 0.25})
    method = registry.get("attack", "dropout-inversion")
    attack = method.make(method.config.model_validate({"max_iterations": 10**9, "patience": 10**9}))
    guess = attack(observation, seeding.generator(1, "attack"), seconds=0.3)
    assert guess.stop_reason == OUT_OF_TIME
    assert 0 < guess.best_iteration <= guess.iterations < 10**9
    assert torch.equal(guess.labels, truth.batches[0].labels)
    assert guess.masks is not None
