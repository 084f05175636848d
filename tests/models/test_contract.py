"""What every model family of images promises; those of text have test files of their own."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.core import registry, seeding
from fedsim.core.errors import FedsimError
from fedsim.core.nets import masks
from fedsim.core.types import InputSpec

PRETRAINED = {"efficientnet-lite0"}  # frozen and in packages of their own: test_efficientnet_lite0.py
DENOISING = {"edm-unet", "patch-diffusion"}  # images to images, in test files of their own
MASKS = {"mask-convnet", "mask-mlp"}  # scores of pixels, in test files of their own
GRAPHS = {"gat", "gcn"}  # of nodes, in test files of their own
TABLES = {"ft-transformer"}  # rows of features: test_ft_transformer.py
LANGUAGE = {
    "hugging-face",
    "masked-checkpoint",
    "minilm",
    "smollm2-135m",
    "tiny-encoder",
    "tiny-llada",
    "tiny-llama",
    "tiny-vlm",
}  # for tokens or questions: in test files of their own
FAMILIES = sorted(registry.methods("model").keys() - PRETRAINED - DENOISING - MASKS - GRAPHS - TABLES - LANGUAGE)
SHAPES = [(1, 28, 28), (3, 32, 32)]
REFUSES = {("lenet", (1, 28, 28)), ("vit-b16", (1, 28, 28))}
CASES = [
    pytest.param(name, shape, marks=pytest.mark.slow if name == "vit-b16" else ())  # 86 million parameters
    for name in FAMILIES
    for shape in SHAPES
    if (name, shape) not in REFUSES
]
CASES += [("lenet", (1, 32, 32)), pytest.param("vit-b16", (1, 16, 16), marks=pytest.mark.slow)]


def spec(shape: tuple[int, ...]) -> InputSpec:
    return InputSpec(shape, 10, (0.0,) * shape[0], (1.0,) * shape[0])


def build(name: str, shape: tuple[int, ...], **settings: Any) -> nn.Module:
    method = registry.get("model", name)
    with seeding.isolate_randomness(3):
        return method.make(method.config(**settings), spec(shape))


def inputs(shape: tuple[int, ...], count: int = 2) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))


def gradients(model: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    loss = F.cross_entropy(model(images), torch.arange(len(images)))
    return torch.autograd.grad(loss, list(model.parameters()))


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_recorded_masks_can_be_injected(name: str, shape: tuple[int, ...]) -> None:
    model, images = build(name, shape, dropout=0.5).train(), inputs(shape)
    with masks.record_masks(model, torch.Generator().manual_seed(1)) as recording:
        drawn = gradients(model, images)
    with masks.inject_masks(recording.sites, tuple(recording.masks)):
        injected = gradients(model, images)
    with masks.disable_dropout():
        whole = gradients(model, images)
    assert recording.masks
    assert all(site.rate == 0.5 for site in recording.sites)
    assert all(torch.equal(a, b) for a, b in zip(drawn, injected, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(drawn, whole, strict=True))
    assert all(bool(gradient.isfinite().all()) for gradient in drawn)


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_scores_of_each_class_with_dropout_only_in_training(name: str, shape: tuple[int, ...]) -> None:
    model, images = build(name, shape, dropout=0.5).eval(), inputs(shape)
    with torch.no_grad():
        scores = model(images)
    assert scores.shape == (2, 10)
    assert bool(scores.isfinite().all())
    with torch.no_grad():
        assert torch.equal(scores, model(images))
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_the_contained_seed_decides_the_weights(name: str, shape: tuple[int, ...]) -> None:
    before = torch.random.get_rng_state()
    first, second = build(name, shape).state_dict(), build(name, shape).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "vit-b16"])
def test_the_gradient_can_be_differentiated(name: str) -> None:
    model, images = build(name, (3, 32, 32)), inputs((3, 32, 32), 1).requires_grad_()
    with masks.record_masks(model, torch.Generator().manual_seed(1)):
        loss = F.cross_entropy(model(images), torch.tensor([1]))
    found = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    (second,) = torch.autograd.grad(sum((g.square().sum() for g in found), torch.zeros(())), images)
    assert bool(second.isfinite().all())
    assert float(second.abs().max()) > 0


@pytest.mark.parametrize(("name", "shape"), sorted(REFUSES))
def test_a_refused_size_names_the_setting(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(FedsimError, match=r"Set data\.size .*32"):
        build(name, shape)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "mlp"])
def test_inputs_that_are_no_images_are_refused(name: str) -> None:
    with pytest.raises(FedsimError, match="reads images"):
        build(name, (12,))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_takes_the_same_dropout(name: str) -> None:
    config = registry.get("model", name).config
    assert "dropout" in config.model_fields
    for rate in (-0.1, 1.0):
        with pytest.raises(ValueError, match="dropout"):
            config.model_validate({"dropout": rate})
