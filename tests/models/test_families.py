"""Sizes and oracles of the single families."""

from collections.abc import Callable
from math import prod

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet

from fedsim.core import masks, seeding
from fedsim.core.errors import FedsimError
from fedsim.core.types import InputSpec
from fedsim.models.convnet import ConvnetConfig, convnet
from fedsim.models.lenet import LenetConfig, lenet
from fedsim.models.resnet18 import Resnet18Config, resnet18
from fedsim.models.torchvision_classifier import TorchvisionConfig, torchvision
from fedsim.models.vit_b16 import VitB16Config, vit_b16
from fedsim.models.vit_small import VitSmallConfig, vit_small


def spec(*shape: int, classes: int = 10) -> InputSpec:
    return InputSpec(shape, classes, (0.0,) * shape[0], (1.0,) * shape[0])


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def mask_values(model: nn.Module, *shape: int) -> tuple[int, int]:
    """Number of mask tensors, and of mask values per image."""
    sites = masks.dropout_sites(model, shape, 1)
    return len(sites), sum(prod(site.shape) for site in sites)


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("shape", "weights", "values"), [((3, 32, 32), 1_612_554, 486_720), ((1, 28, 28), 1_600_522, 326_400)]
)
def test_vit_small_has_the_sizes_of_the_paper(shape: tuple[int, ...], weights: int, values: int) -> None:
    model = vit_small(VitSmallConfig(), spec(*shape))
    assert parameters(model) == weights
    assert mask_values(model, *shape) == (17, values)


def test_vit_b16_has_the_sizes_of_the_paper() -> None:
    with torch.device("meta"):
        model = vit_b16(VitB16Config(), spec(3, 224, 224, classes=1000))
    assert parameters(model) == 86_540_008
    assert mask_values(model, 3, 224, 224) == (49, 16_633_104)


def test_vit_drops_out_in_the_order_of_the_paper() -> None:
    sites = masks.dropout_sites(vit_small(VitSmallConfig(), spec(3, 32, 32)), (3, 32, 32), 2)
    block = [(2, 16, 65, 65), (2, 65, 256), (2, 65, 256), (2, 65, 256)]
    assert [site.shape for site in sites] == [(2, 65, 256), *block * 4]


def test_a_transformer_block_is_the_one_of_torch() -> None:
    with seeding.isolate_randomness(0):
        block = vit_small(VitSmallConfig(dropout=0.25), spec(3, 32, 32)).get_submodule("blocks.0")
        oracle = nn.TransformerEncoderLayer(
            256, 16, 256, dropout=0.25, activation="gelu", batch_first=True, norm_first=True
        )
    own = dict(block.named_parameters())
    theirs = {
        "self_attn.in_proj_weight": own["attention.1.queries_keys_values.weight"],
        "self_attn.in_proj_bias": torch.zeros(768),
        "self_attn.out_proj.weight": own["attention.1.output.0.weight"],
        "self_attn.out_proj.bias": own["attention.1.output.0.bias"],
        "norm1.weight": own["attention.0.weight"],
        "norm1.bias": own["attention.0.bias"],
        "norm2.weight": own["mlp.0.weight"],
        "norm2.bias": own["mlp.0.bias"],
        "linear1.weight": own["mlp.1.weight"],
        "linear1.bias": own["mlp.1.bias"],
        "linear2.weight": own["mlp.4.weight"],
        "linear2.bias": own["mlp.4.bias"],
    }
    oracle.load_state_dict(theirs)
    tokens = images(2, 65, 256)
    with torch.no_grad(), masks.record_masks(block, torch.Generator().manual_seed(1)) as recording:
        found = block(tokens)
    with torch.no_grad(), masks.inject_masks(recording.sites, tuple(recording.masks)):
        expected = oracle(tokens)
    assert torch.allclose(found, expected, atol=1e-5)


def test_vit_refuses_pixels_that_do_not_fill_patches() -> None:
    with pytest.raises(FedsimError, match="multiple of 4, for example 32"):
        vit_small(VitSmallConfig(), spec(1, 30, 30))


def test_lenet_has_64_features_at_32_pixels() -> None:
    model = lenet(LenetConfig(), spec(3, 32, 32))
    assert mask_values(model, 3, 32, 32) == (1, 64)
    assert [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)] == [16, 32, 64]


@pytest.mark.parametrize("shape", [(1, 29, 29), (3, 40, 33)])
def test_lenet_takes_29_pixels_or_more(shape: tuple[int, ...]) -> None:
    assert lenet(LenetConfig(), spec(*shape))(images(1, *shape)).shape == (1, 10)
    with pytest.raises(FedsimError, match="at least 29 x 29"):
        lenet(LenetConfig(), spec(1, 28, 40))


def test_resnet18_is_the_one_of_torchvision_with_groups() -> None:
    with seeding.isolate_randomness(0):
        own = resnet18(Resnet18Config(), spec(3, 32, 32)).eval()
        oracle = resnet.resnet18(num_classes=10, norm_layer=lambda channels: nn.GroupNorm(2, channels)).eval()
    weights = zip(oracle.state_dict(), own.state_dict().values(), strict=True)
    oracle.load_state_dict(dict(weights))
    with torch.no_grad():
        assert torch.allclose(own(images(2, 3, 64, 64)), oracle(images(2, 3, 64, 64)), atol=1e-5)


def test_resnet18_starts_from_the_initialisation_of_he() -> None:
    with seeding.isolate_randomness(0):
        model = resnet18(Resnet18Config(), spec(3, 32, 32))
    for weight in (p for p in model.parameters() if p.ndim == 4):
        fan_out = weight.shape[0] * weight.shape[2] * weight.shape[3]
        assert float(weight.detach().std() * (fan_out / 2) ** 0.5) == pytest.approx(1, abs=0.05)


def test_resnet18_with_the_small_stem_keeps_all_pixels() -> None:
    model = resnet18(Resnet18Config(stem="3x3"), spec(3, 32, 32))
    assert parameters(model) == 11_173_962
    assert mask_values(model, 3, 32, 32) == (1, 512)
    with torch.no_grad():
        assert nn.Sequential(*list(model.children())[:3])(images(1, 3, 32, 32)).shape == (1, 64, 32, 32)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 33, 30), (2, 1, 1)])
def test_convnet_takes_any_size(shape: tuple[int, ...]) -> None:
    for normalisation in ("none", "group"):
        model = convnet(ConvnetConfig(normalisation=normalisation), spec(*shape))
        assert model(images(2, *shape)).shape == (2, 10)
    assert sum(isinstance(module, nn.GroupNorm) for module in model.modules()) == 4


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        ({"classifier": "resnet81"}, (3, 32, 32), "Did you mean 'resnet18'"),
        ({"classifier": "resnet18", "dropout": 0.1}, (3, 32, 32), "no argument dropout"),
        ({"classifier": "alexnet"}, (3, 32, 32), "cannot process 32 x 32 pixels.*Set data.size"),
        ({"classifier": "resnet18"}, (4, 32, 32), "1 or 3 channels, got 4"),
    ],
)
def test_torchvision_says_what_it_cannot_build(
    settings: dict[str, object], shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(FedsimError, match=f"(?s){message}"):
        torchvision(TorchvisionConfig.model_validate(settings), spec(*shape))


def test_torchvision_repeats_grey_images() -> None:
    with seeding.isolate_randomness(0):
        grey = torchvision(TorchvisionConfig(classifier="squeezenet1_1"), spec(1, 32, 32)).eval()
    with seeding.isolate_randomness(0):
        colour = torchvision(TorchvisionConfig(classifier="squeezenet1_1"), spec(3, 32, 32)).eval()
    pixels = images(2, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(grey(pixels), colour(pixels.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize("classifier", ["googlenet", "mobilenet_v3_small"])
def test_torchvision_builds_plain_classifiers_and_leaves_their_buffers(classifier: str) -> None:
    with seeding.isolate_randomness(0):
        model = torchvision(TorchvisionConfig(classifier=classifier), spec(3, 32, 32))
    buffers = dict(model.named_buffers())
    assert all(not buffer.is_meta for buffer in buffers.values())
    assert all(int(buffer) == 0 for name, buffer in buffers.items() if name.endswith("num_batches_tracked"))
    assert model(images(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    "build",
    [
        lambda: lenet(LenetConfig(), spec(3, 32, 32)),
        lambda: convnet(ConvnetConfig(), spec(3, 32, 32)),
        lambda: vit_small(VitSmallConfig(), spec(3, 32, 32)),
    ],
)
def test_dropout_is_the_one_of_torch(build: Callable[[], nn.Module]) -> None:
    drops = [module for module in build().modules() if "Dropout" in type(module).__name__]
    assert drops
    assert all(type(module) is nn.Dropout for module in drops)


def test_a_width_that_does_not_divide_into_heads_is_refused() -> None:
    with pytest.raises(FedsimError, match="multiple of its 3 heads, got 8"):
        vit_small(VitSmallConfig(width=8, heads=3), spec(1, 28, 28))
