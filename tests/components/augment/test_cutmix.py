"""CutMix against counting pixels one by one, and in a real client."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fedsim.components.augment._mixing import Draw, boxes_of, mixed_labels
from fedsim.components.augment.cutmix import CutMix, CutMixConfig
from fedsim.core.errors import FedsimError, ScenarioError
from fedsim.core.hooks import HookContext
from fedsim.core.types import Batch
from fedsim.federation.client import local_training
from fedsim.metrics.boxes import inside
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from fedsim.scenario.world import World
from tests.components.augment.boxes import SHAPES, areas, cutmix, random

Build = Callable[..., Scenario]
CLASSES = 10


def tagged(batch: int, height: int, width: int) -> torch.Tensor:
    """Images that are constant, each its own number."""
    return torch.arange(batch).float().view(-1, 1, 1, 1).expand(batch, 1, height, width).clone()


def world_with(scenario: Build, component: dict[str, Any], **tables: Any) -> World:
    table = {"federation": {"batch_size": 4}, "components": [{"name": "cutmix", "probability": 1.0, **component}]}
    return worlds.build(scenario(**{**table, **tables}))


@pytest.mark.paper_step("cutmix", "images pasted, labels by the share of pixels")
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_the_weight_is_the_share_of_pixels_that_stayed_and_the_rest_is_the_partners(
    height: int, width: int, per_sample: bool
) -> None:
    component, generator = cutmix(per_sample=per_sample), random()
    inputs = tagged(4, height, width)
    for _ in range(250):
        draw = component.draw(inputs, generator)
        mixed = component.mix_inputs(inputs, draw)
        for index, (partner, weight) in enumerate(zip(draw.partners.tolist(), draw.weights.tolist(), strict=True)):
            if partner == index:
                assert bool((mixed[index] == index).all())
                continue
            own = int((mixed[index] == index).sum())
            assert own == round(weight * height * width)
            assert weight == pytest.approx(own / (height * width), abs=1e-15)
            assert int((mixed[index] == partner).sum()) == height * width - own


@pytest.mark.paper_step("cutmix", "box of a Beta share, clipped at the border")
@pytest.mark.parametrize(("height", "width"), [(4, 40), (40, 4)])
def test_rows_are_clipped_by_the_height_and_columns_by_the_width(height: int, width: int) -> None:
    boxes = torch.tensor(boxes_of(torch.zeros(2000).double(), height, width, random()))
    top, bottom, left, right = boxes.unbind(1)
    assert (int(top.min()), int(bottom.max()), int(left.min()), int(right.max())) == (0, height, 0, width)
    assert int((bottom - top).max()) == height
    assert int((right - left).max()) == width
    painted = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    for canvas, (first, last, start, end) in zip(painted, boxes.tolist(), strict=True):
        canvas[first:last, start:end] = True
    assert torch.equal(painted, inside(boxes, height, width))
    assert torch.equal(painted.sum((1, 2)), areas(boxes))


@pytest.mark.parametrize("settings", [{"beta": 0.0}, {"probability": 0.0}])
@pytest.mark.parametrize("mode", ["cutmix", "cutout", "mixup", "label-only"])
def test_switched_off_it_changes_nothing(mode: str, settings: dict[str, float]) -> None:
    component, inputs = cutmix(mode=mode, **settings), torch.rand(4, 1, 8, 8)
    draw = component.draw(inputs, random())
    assert torch.equal(component.mix_inputs(inputs, draw), inputs)
    assert draw.weights.tolist() == [1.0] * 4


def test_the_mixed_label_gives_the_two_weighted_losses_and_their_gradients() -> None:
    generator, network = random(), torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, CLASSES)).double()
    inputs, labels = torch.rand(6, 1, 8, 8, generator=generator).double(), torch.randint(CLASSES, (6,))
    component = cutmix(per_sample=True)
    draw = component.draw(inputs, generator)
    outputs = network(component.mix_inputs(inputs, draw))
    ours = F.cross_entropy(outputs, mixed_labels(labels, draw, CLASSES, inputs))
    first = F.cross_entropy(outputs, labels, reduction="none")
    second = F.cross_entropy(outputs, labels[draw.partners], reduction="none")
    theirs = (draw.weights * first + (1 - draw.weights) * second).mean()
    assert torch.allclose(ours, theirs, atol=1e-12)
    weights = list(network.parameters())
    parts = [
        torch.autograd.grad((share * part).mean(), weights, retain_graph=True)
        for share, part in ((draw.weights, first), (1 - draw.weights, second))
    ]
    for gradient, part, other in zip(torch.autograd.grad(ours, weights), *parts, strict=True):
        assert torch.allclose(gradient, part + other, atol=1e-12)


def test_the_variants_do_what_their_names_say() -> None:
    inputs = torch.rand(4, 2, 8, 8) + 1.0
    draw = cutmix(per_sample=True).draw(inputs, random(2))
    box = inside(draw.boxes, 8, 8)[:, None].expand_as(inputs)
    assert torch.equal(cutmix(mode="label-only").mix_inputs(inputs, draw), inputs)
    erased = cutmix(mode="cutout").mix_inputs(inputs, draw)
    assert not bool(erased[box].any())
    assert torch.equal(erased[~box], inputs[~box])
    blended = cutmix(mode="mixup").mix_inputs(inputs, draw)
    for index in range(4):
        own = draw.weights[index].float()
        assert torch.allclose(blended[index], own * inputs[index] + (1 - own) * inputs[draw.partners[index]])
    assert cutmix(mode="cutout").draw(inputs, random(2)).weights.tolist() == [1.0] * 4


@pytest.mark.parametrize("mode", ["cutmix", "cutout", "mixup", "label-only"])
def test_a_client_trains_on_what_its_written_draws_say(scenario: Build, mode: str) -> None:
    world = world_with(scenario, {"mode": mode, "per_sample": True}, model={"name": "mlp", "width": 24, "dropout": 0.0})
    update, truth = local_training(world, world.models.first_weights, 1, 0)
    (drawn,), (private,), (trained,) = truth.draws, truth.original_batches, truth.batches
    boxes = drawn.get("cutmix.boxes", torch.zeros(4, 4, dtype=torch.long))
    draw = Draw(drawn.get("cutmix.partners", torch.arange(4)), boxes, drawn["cutmix.weights"])
    component = CutMix(CutMixConfig(mode=mode))  # type: ignore[arg-type]
    assert ("cutmix.boxes" in drawn) is (mode in ("cutmix", "cutout"))
    assert ("cutmix.partners" in drawn) is (mode != "cutout")
    assert torch.equal(trained.inputs, component.mix_inputs(private.inputs, draw))
    if mode == "cutout":
        assert torch.equal(trained.labels, private.labels)
    else:
        assert torch.equal(trained.labels, mixed_labels(private.labels, draw, CLASSES, private.inputs))
    model = world.models.new()
    loss = F.cross_entropy(model(trained.inputs), trained.labels)
    for ours, (name, theirs) in zip(
        torch.autograd.grad(loss, list(model.parameters())), update.tensors.items(), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-6), name


def test_a_last_batch_of_one_is_trained_plain(scenario: Build) -> None:
    partition = {"scheme": "resampled", "examples_per_client": 5}
    federation = {"batch_size": 4, "algorithm": "fedavg", "local_epochs": 1}
    world = world_with(scenario, {"per_sample": True}, federation=federation, partition=partition)
    world.check()
    _, truth = local_training(world, world.models.first_weights, 1, 0)
    assert [len(batch) for batch in truth.batches] == [4, 1]
    assert torch.equal(truth.batches[1].inputs, truth.original_batches[1].inputs)
    assert torch.equal(truth.batches[1].labels, F.one_hot(truth.original_batches[1].labels, CLASSES).float())


def test_soft_labels_are_mixed_and_others_are_refused_in_one_sentence(scenario: Build) -> None:
    federation = world_with(scenario, {}).facts.federation
    here, inputs = HookContext(1, 0, 0, random(), federation=federation), torch.rand(4, 1, 8, 8)
    soft = torch.rand(4, CLASSES).softmax(1)
    mixed = cutmix().augment(Batch(inputs, soft), here)
    draw = Draw(here.draws["cutmix.partners"], here.draws["cutmix.boxes"], here.draws["cutmix.weights"])
    own = draw.weights[:, None].float()
    assert torch.allclose(mixed.labels, own * soft + (1 - own) * soft[draw.partners], atol=1e-6)
    with pytest.raises(FedsimError, match=r"cannot mix labels of shape \(4,\): expected classes"):
        cutmix().augment(Batch(inputs, torch.rand(4)), here)


def test_what_does_not_fit_ends_in_one_sentence_before_any_training(scenario: Build) -> None:
    with pytest.raises(ScenarioError, match="it mixes pairs of images of a batch, but a batch holds 1"):
        world_with(scenario, {}, federation={"batch_size": 1}).check()
    world_with(scenario, {"mode": "cutout"}, federation={"batch_size": 1}).check()
    world = world_with(scenario, {})
    flat = replace(world.facts.federation, shape=(64,))
    assert "an example has shape (64,)" in (cutmix().refuses(flat, world.models.new()) or "")
    twice = [{"name": "cutmix"}, {"name": "cutmix", "mode": "mixup"}]
    with pytest.raises(ScenarioError, match="the components name it twice"):
        world_with(scenario, {}, components=twice).check()


def test_one_weight_for_the_batch_mixes_the_gradients_of_both_labels_on_the_same_images() -> None:
    generator, network = random(1), torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, CLASSES)).double()
    inputs, labels = torch.rand(5, 1, 8, 8, generator=generator).double(), torch.randint(CLASSES, (5,))
    component = cutmix()
    draw = component.draw(inputs, generator)
    (weight,) = set(draw.weights.tolist())
    outputs, weights = network(component.mix_inputs(inputs, draw)), list(network.parameters())

    def gradient(target: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(F.cross_entropy(outputs, target), weights, retain_graph=True)

    mixed = gradient(mixed_labels(labels, draw, CLASSES, inputs))
    for ours, own, other in zip(mixed, gradient(labels), gradient(labels[draw.partners]), strict=True):
        assert torch.allclose(ours, weight * own + (1 - weight) * other, atol=1e-12)


def test_an_empty_box_and_a_full_one() -> None:
    assert int(areas(torch.tensor(boxes_of(torch.ones(100).double(), 8, 8, random()))).sum()) == 0
    full = areas(torch.tensor(boxes_of(torch.zeros(1000).double(), 8, 8, random())))
    assert int(full.max()) == 64
    assert float(full.double().mean()) < 45  # clipped around a random centre, so seldom the whole image
