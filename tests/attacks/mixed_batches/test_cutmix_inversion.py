"""CutMix inside the simulated client: equal to the real one at the truth, and searched where it is not known."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F

from attacks.core.unknowns import Unknowns, Values
from attacks.gradient_matching._comparison import cosine, setting_of
from attacks.local_steps._unrolled import UnrolledComparison, local_steps
from attacks.mixed_batches._cutmix_boxes import assemble
from attacks.mixed_batches._cutmix_client import GrantedPasting, PastedComparison, PastingStep, balance, covered
from attacks.mixed_batches.cutmix_inversion import CutmixInversion, compare, pasting_of
from fedsim.components.augment.cutmix import CutMix, CutMixConfig
from fedsim.core import registry, seeding
from fedsim.core.boxes import Pasted, inside
from fedsim.core.errors import NotApplicable
from fedsim.core.examples import distinct, numbers
from fedsim.core.hooks import Attack
from fedsim.core.types import Observation, Reconstruction, Truth
from fedsim.metrics.composites import with_composites
from fedsim.metrics.image import score_items
from fedsim.record import ItemScore
from fedsim.scenario.world import World

Watched = Callable[..., tuple[Observation, Truth, World]]
Named = Callable[..., Attack[Any]]
KNOWN = ("batch-size", "dropout-rates", "input-statistics", "components", "labels")
SURE = 50.0


def observed(watched: Watched, client: int, *granted: str, **changes: Any) -> tuple[Observation, Truth, World]:
    cutmix = {"name": "cutmix", "probability": 1.0, **changes.pop("cutmix", {})}
    tables = {
        "model": {"name": "convnet", "dropout": 0.0},
        "data": {"name": "mnist5k"},
        "federation": {"clients": 50, "batch_size": 2, **changes.pop("federation", {})},
        "partition": {"scheme": "resampled", "examples_per_client": 2},
        "components": [cutmix],
    }
    return watched(client=client, knows=(*KNOWN, *granted), **{**tables, **changes})


def attacked(watched: Watched, attack: Attack[Any], client: int, *granted: str, **changes: Any) -> Any:
    observation, truth, world = observed(watched, client, *granted, **changes)
    found: Reconstruction = attack(observation, seeding.generator(1, "attack"))
    examples, spec = distinct(truth.private), world.data.dataset.spec
    items: tuple[ItemScore, ...] = with_composites(score_items(found, examples, spec), found, truth, examples, spec)
    return found, items


def on_maps(
    watched: Watched, examples: int, *granted: str, at: str, passes: int = 1, per_sample: bool
) -> tuple[Observation, Truth, World]:
    size = {"1": [28, 28], "3": [14, 14]}[at]
    return watched(
        client=1,
        knows=(*KNOWN, *granted),
        model={"name": "convnet", "dropout": 0.0},
        data={"name": "mnist5k"},
        federation={"clients": 50, "batch_size": examples, "algorithm": "fedavg", "local_epochs": passes},
        partition={"scheme": "resampled", "examples_per_client": examples},
        components=[{"name": "feature-cutmix", "at": at, "size": size, "probability": 1.0, "per_sample": per_sample}],
    )


def in_order(orders: Sequence[torch.Tensor], shift: int) -> Values:
    """The order of the dummies of every step, from which a shift takes it away."""
    return {f"order of step {n}": (order[None].roll(shift, 1),) for n, order in enumerate(orders, 1)}


def pasted(boxes: torch.Tensor, partners: torch.Tensor) -> Values:
    return {"boxes of step 1": (boxes[None],), "partners of step 1": (partners[None],)}


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("passes", [1, 3])
def test_at_the_truth_the_simulated_client_sends_what_the_client_sent(
    watched: Watched, passes: int, per_sample: bool
) -> None:
    federation = {"batch_size": 4, "algorithm": "fedavg", "local_epochs": passes}
    observation, truth, _ = observed(
        watched, 1, "draws", federation=federation, cutmix={"per_sample": per_sample},
        partition={"scheme": "resampled", "examples_per_client": 4},
    )  # fmt: skip
    originals = distinct(truth.private)
    steps: list[PastingStep] = []
    orders: list[torch.Tensor] = []
    everyone = zip(local_steps(observation), truth.draws, numbers(truth.private), strict=True)
    for number, (step, draws, places) in enumerate(everyone):
        pasted = Pasted.written_in(draws)
        assert pasted is not None
        steps.append(PastingStep(step.examples, (), number=number, pasting=GrantedPasting(pasted, 28, 28)))
        orders.append(SURE * F.one_hot(torch.as_tensor(places), 4).T.float())
    comparison = PastedComparison(setting_of(observation, (), True, "cpu"), [observation], steps, checkpointed=False)
    labels = F.one_hot(originals.labels, 10).float()[None]
    right, wrong = (
        cosine(comparison.gradients(originals.inputs[None], (), labels, [0], in_order(orders, shift)))
        for shift in (0, 1)
    )
    assert float(right.detach()) < 1e-5
    assert float(wrong.detach()) > 100 * float(right.detach())


def test_whole_edges_cover_what_the_box_holds_and_others_a_part_of_a_pixel() -> None:
    boxes = torch.tensor([[2, 7, 3, 9], [0, 28, 0, 32], [5, 5, 1, 4]])
    edges = boxes / torch.tensor([28, 28, 32, 32])
    assert torch.allclose(covered(edges, (28, 32)), inside(boxes, 28, 32).float(), atol=1e-5)
    (part,) = covered(torch.tensor([[0.25, 1.0, 0.0, 0.75]]), (2, 2))
    assert torch.allclose(part, torch.tensor([[0.5, 0.25], [1.0, 0.5]]))


def test_logits_become_doubly_stochastic_and_sure_ones_a_permutation() -> None:
    soft = balance(torch.randn(5, 5, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(soft.sum(1), torch.ones(5))
    assert torch.allclose(soft.sum(0), torch.ones(5), atol=0.02)
    exact = torch.eye(5)[torch.tensor([2, 0, 1, 4, 3])]
    assert torch.allclose(balance(SURE * exact), exact, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_a_box_is_found_from_a_weight_that_is_a_little_wrong(seed: int) -> None:
    """Smooth images that differ; the boxes are those that the component draws."""
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 20), torch.linspace(0, 1, 20), indexing="ij")
    images = torch.stack([rows, columns, 1 - rows])[:, None]
    cutmix, generator = CutMix(CutMixConfig(probability=1.0)), torch.Generator().manual_seed(seed)
    draw = cutmix.draw(images, generator)
    partners = torch.tensor([1, 2, 0])
    composites = cutmix.mixed(images, draw._replace(partners=partners))
    weight = float(draw.weights[0])
    if not 0.1 < weight < 0.9:
        pytest.skip("next to nothing is pasted")
    own = torch.eye(3)
    found = assemble(composites, (weight + 0.02) * own + (0.98 - weight) * own[partners], None, 0.04)
    assert found is not None
    assert torch.equal(found.images, images) or torch.equal(found.images, images[partners])


@pytest.mark.parametrize("at", ["1", "3"])
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("passes", [1, 3])
def test_at_the_truth_the_client_that_pastes_maps_sends_what_the_client_sent(
    watched: Watched, passes: int, per_sample: bool, at: str
) -> None:
    observation, truth, _ = on_maps(watched, 4, "draws", at=at, passes=passes, per_sample=per_sample)
    originals = distinct(truth.private)
    steps, orders = list[PastingStep](), list[torch.Tensor]()
    everyone = zip(local_steps(observation), truth.draws, numbers(truth.private), strict=True)
    for number, (step, draws, places) in enumerate(everyone):
        assert draws["feature-cutmix.weights"].min() < 1.0
        steps.append(PastingStep(step.examples, (), number=number, pasting=pasting_of(observation, number)))
        orders.append(SURE * F.one_hot(torch.as_tensor(places), 4).T.float())
    comparison = compare(setting_of(observation, (), True, "cpu"), observation, steps)
    labels = F.one_hot(originals.labels, 10).float()[None]
    right, wrong = (
        cosine(comparison.gradients(originals.inputs[None], (), labels, [0], in_order(orders, shift)))
        for shift in (0, 1)
    )
    assert float(right.detach()) < 1e-5
    assert float(wrong.detach()) > 100 * float(right.detach())


def test_boxes_that_are_searched_explain_the_gradient_once_they_are_right(watched: Watched) -> None:
    observation, truth, _ = on_maps(watched, 4, at="3", per_sample=True)
    (step,), (draws,), originals = local_steps(observation), truth.draws, truth.private[0]
    pasting = pasting_of(observation, 0)
    step = PastingStep(step.examples, (), number=0, pasting=pasting)
    first = Unknowns(step.unknowns(0.05)).first(torch.Generator())
    assert {name: tuple(own.shape) for name, (own,) in first.items()} == {
        "boxes of step 1": (4, 4),
        "partners of step 1": (4, 4),
    }
    comparison = compare(setting_of(observation, (), True, "cpu"), observation, [step])
    edges = draws["feature-cutmix.map-boxes"] / 14.0
    partners = SURE * F.one_hot(draws["feature-cutmix.partners"], 4).float()
    labels = F.one_hot(originals.labels, 10).float()[None]
    right, wrong = (
        float(cosine(comparison.gradients(originals.inputs[None], (), labels, [0], pasted(own, partners))).detach())
        for own in (edges, edges.flip(0))
    )
    assert right < 1e-5
    assert wrong > 100 * right


def test_without_a_cut_it_is_the_attack_that_knows_nothing(watched: Watched) -> None:
    observation, truth, _ = on_maps(watched, 4, at="3", per_sample=True)
    setting, step, pasting = (
        setting_of(observation, (), True, "cpu"),
        local_steps(observation)[0],
        pasting_of(observation, 0),
    )
    theirs = compare(setting, observation, [PastingStep(step.examples, (), number=0, pasting=pasting)])
    plain = UnrolledComparison(setting, [observation], [step], checkpointed=False)
    inputs = torch.randn_like(truth.private[0].inputs)[None].requires_grad_()
    labels = F.one_hot(truth.private[0].labels, 10).float()[None]
    empty = pasted(torch.full((4, 4), 0.5), torch.zeros(4, 4))
    ours, others = (cosine(own.gradients(inputs, (), labels, [0], empty)) for own in (theirs, plain))
    assert torch.allclose(ours, others, atol=1e-6)
    ours, others = (torch.autograd.grad(value, inputs)[0] for value in (ours, others))
    assert ours.any()
    assert torch.allclose(ours, others, atol=1e-6)


@pytest.mark.parametrize("granted", [(), ("draws",)], ids=["searched", "granted"])
def test_what_entered_the_model_that_pastes_maps_are_the_originals(
    watched: Watched, attack_named: Named, granted: tuple[Any, ...]
) -> None:
    observation, _, _ = on_maps(watched, 2, *granted, at="3", per_sample=True)
    attack = attack_named("cutmix-inversion", max_iterations=3, restarts=2)
    found, again = (attack(observation, seeding.generator(1, "attack")) for _ in range(2))
    assert torch.equal(found.inputs, again.inputs)
    assert found.trained is not None
    assert torch.equal(found.trained.inputs, found.inputs)
    assert found.trained.labels.shape == (2, 10)
    assert torch.allclose(found.trained.labels.sum(1), torch.ones(2), atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("granted", [(), ("draws",)], ids=["searched", "granted"])
def test_originals_come_back_through_a_convolutional_network(
    watched: Watched, attack_named: Named, granted: tuple[str, ...]
) -> None:
    attack = attack_named("cutmix-inversion", max_iterations=300, restarts=2)
    found, items = attacked(watched, attack, 1, *granted, seed=50)
    assert found.objective < 1e-2
    assert min(item.values.get("psnr_trained") or 0.0 for item in items) > 25
    assert min(item.values["psnr"] for item in items) > 25


def test_auto_turns_to_it_where_a_component_pastes(watched: Watched, attack_named: Named) -> None:
    others = [name for name in registry.methods("attack") if name not in ("auto", "cutmix-inversion")]
    auto = attack_named("auto", max_iterations=4, mask_iterations=1, leave_out=others)
    for federation in ({}, {"algorithm": "fedavg", "local_epochs": 2}):
        found, _ = attacked(watched, auto, 1, federation=federation)
        assert found.notes[0] == "won: cutmix-inversion"
    observation, _, _ = on_maps(watched, 2, at="3", per_sample=True)
    assert auto(observation, seeding.generator(1, "attack")).notes[0] == "won: cutmix-inversion"


def test_it_says_why_it_does_not_apply(watched: Watched, attack_named: Named) -> None:
    with pytest.raises(NotApplicable, match="no component in use pastes a part of one example into another"):
        attacked(watched, attack_named("cutmix-inversion"), 0, cutmix={"mode": "mixup"})


def test_it_is_registered_as_one_that_undoes_a_change() -> None:
    kind = cast("type[CutmixInversion]", registry.get("attack", "cutmix-inversion").make)
    assert kind is CutmixInversion
    assert kind.undoes
