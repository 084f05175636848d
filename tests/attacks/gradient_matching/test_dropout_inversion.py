"""The Dropout Inversion Attack's own options, and the main claim end to end: dropout fools IG, and not DIA."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionTransformer

from attacks.core.mask_readout_rules import read_masks
from fedsim.core import seeding
from fedsim.core.types import InputSpec, Observation, Reconstruction, Step, Truth
from fedsim.metrics.image import score_items
from fedsim.models._transformer import VisionTransformer
from tests.attacks.solving import attack_named, hiding, toy
from tests.federating import watched

WIDE = {"name": "mlp", "width": 64, "depth": 2, "dropout": 0.25}


def attacked(
    observation: Observation, on_step: Callable[[Step], None] = lambda _s: None, **settings: object
) -> Reconstruction:
    return attack_named("dropout-inversion", **settings)(observation, seeding.generator(5, "attack"), on_step)


def agreement(found: Reconstruction, truth: Truth) -> float:
    """Share of mask entries on the right side of one half."""
    pairs = zip(found.masks, truth.masks[0], strict=True)
    hits = torch.cat([((mask > 0.5) == (true > 0.5)).flatten() for mask, true in pairs])
    return float(hits.double().mean())


def small_transformer(dropout: float) -> nn.Module:
    spec = InputSpec((1, 8, 8), 4, (0.0,), (1.0,))
    return VisionTransformer(spec, patch=4, width=16, blocks=2, heads=2, hidden=16, dropout=dropout)


def torchvision_transformer(dropout: float) -> nn.Module:
    model = TorchvisionTransformer(
        8, 4, 2, 2, 16, 16, dropout=dropout, attention_dropout=dropout, num_classes=4
    )  # image, patch, blocks, heads, width, hidden
    nn.init.normal_(model.heads.head.weight, std=0.1)  # torchvision starts it at zero
    return model


@pytest.mark.paper_step("dropout-inversion", "joint search over inputs and masks")
@pytest.mark.parametrize(
    "settings",
    [
        {},
        pytest.param(
            {"relaxation": "sigmoid", "mask_learning_rate": 0.3, "first_masks": "mean"}, marks=pytest.mark.slow
        ),
        pytest.param(
            {"relaxation": "straight-through", "first_masks": "mean", "mask_learning_rate": 0.03},
            marks=pytest.mark.slow,
        ),
    ],
    ids=str,
)
def test_every_relaxation_finds_masks_and_image(settings: dict[str, object]) -> None:
    observation, truth, world = watched(model=WIDE)
    found = attacked(observation, max_iterations=300, sign="off", schedule="cosine", **settings)
    assert agreement(found, truth) > 0.9
    assert score_items(found, truth.batches[0], world.data.dataset.spec).items[0].values["psnr"] > 25


def test_masks_have_a_step_of_their_own() -> None:
    observation, _, _ = watched(model=WIDE)
    settings = {"max_iterations": 2, "first_masks": "mean", "learning_rate": 1e-7, "boxed": False}
    start = attacked(observation, **{**settings, "max_iterations": 1})
    for rate in (0.1, 0.01):
        moved = attacked(observation, **settings, mask_learning_rate=rate)
        assert moved.best_iteration == 2
        steps = torch.cat([(a - b).abs().flatten() for a, b in zip(moved.masks, start.masks, strict=True)])
        assert float(steps.max()) == pytest.approx(rate, rel=0.01)
        assert torch.allclose(moved.inputs, start.inputs, atol=1e-6)


@pytest.mark.slow
def test_polish_rounds_the_masks_and_is_kept_because_it_explains_more() -> None:
    observation, truth, world = watched(model=WIDE)
    settings = {
        "max_iterations": 250,
        "schedule": "cosine",
        "sign": "off",
        "priors": [{"name": "total-variation", "weight": 1e-7}],
    }
    steps: list[Step] = []
    rough = attacked(observation, **settings)
    fine = attacked(observation, steps.append, **settings, polish=True)
    assert fine.objective < rough.objective
    assert set(torch.cat([mask.flatten() for mask in fine.masks]).tolist()) == {0.0, 1.0}
    assert fine.diagnostics["starts"] == 2
    assert fine.iterations == len(steps)
    assert [step.iteration for step in steps] == list(range(1, len(steps) + 1))
    assert steps[-1].restart == 1
    before, after = (
        score_items(r, truth.batches[0], world.data.dataset.spec).items[0].values["psnr"] for r in (rough, fine)
    )
    assert after > before


def test_polish_that_explains_less_is_dropped() -> None:
    """Masks of 1 - p = 0.25 that hardly moved round to nothing kept, which explains nothing."""
    observation, _, _ = watched(model={**WIDE, "dropout": 0.75})
    settings = {"max_iterations": 40, "first_masks": "mean", "mask_learning_rate": 1e-6}
    rough = attacked(observation, **settings)
    polished = attacked(observation, **settings, polish=True)
    assert polished.objective == rough.objective
    assert torch.equal(polished.inputs, rough.inputs)
    assert all(torch.equal(a, b) for a, b in zip(polished.masks, rough.masks, strict=True))
    assert polished.iterations > rough.iterations


@pytest.mark.parametrize("dropout", [0.1, 0.5])
@pytest.mark.parametrize(
    ("build", "shape"), [(small_transformer, (1, 8, 8)), (torchvision_transformer, (3, 8, 8))], ids=["own", "tv"]
)
def test_the_mask_behind_the_position_embedding_is_read_exactly(
    build: Callable[[float], nn.Module], shape: tuple[int, ...], dropout: float
) -> None:
    with seeding.isolate_randomness(1):
        model = build(dropout)
    observation, truth = toy(model, shape, 1)
    mask = read_masks(observation)[0]
    known = ~mask.isnan()
    assert torch.equal(mask[known].double(), truth.masks[0][0][known])
    assert float(known.double().mean()) > 0.7


def test_without_the_embedding_little_can_be_read() -> None:
    with seeding.isolate_randomness(1):
        model = small_transformer(0.25)
    assert read_masks(toy(model, (1, 8, 8), 2)[0]) == {}
    observation, _ = toy(model, (1, 8, 8), 1)
    mask = read_masks(hiding(observation, "positions")).get(0)
    assert mask is None or float(mask.isnan().double().mean()) > 0.7


def test_what_was_read_stays_fixed_and_the_rest_is_searched() -> None:
    with seeding.isolate_randomness(1):
        model = small_transformer(0.25).float()
    observation, truth = toy(model, (1, 8, 8), 1, dtype=torch.float32)
    read = read_masks(observation)[0]
    found = attacked(observation, max_iterations=15, read_out=True)
    known = ~read.isnan()
    assert torch.equal(found.masks[0][known], truth.masks[0][0][known])
    assert not torch.equal(found.masks[1], found.masks[1].round())
