from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsim.core import seeding
from tests.attacks.solving import assert_refused, psnr_of, solve, toy
from tests.federating import watched

NAME = "closed-form-vit"
CIFAR = {"name": "foolbox-samples", "collection": "cifar10"}
MNIST = {"name": "mnist5k", "train": 40, "test": 10}


class Transformer(nn.Module):
    """Patches by convolution or by a linear layer, class token last or absent, learned, fixed or scaled positions."""

    def __init__(self, *, patch: int = 2, side: int = 6, width: int = 24, rate: float = 0.0, linear: bool = False):
        super().__init__()
        self.patch = patch
        count = (side // patch) ** 2
        self.project = nn.Linear(2 * patch * patch, width) if linear else nn.Conv2d(2, width, patch, patch)
        self.position = nn.Parameter(torch.randn(count + 1, width))
        self.token = nn.Parameter(torch.randn(1, width))
        self.drop = nn.Dropout(rate)
        self.body = nn.TransformerEncoderLayer(width, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(width, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if isinstance(self.project, nn.Linear):
            z = self.project(F.unfold(x, self.patch, stride=self.patch).transpose(1, 2))
        else:
            z = self.project(x).flatten(2).transpose(1, 2)
        z = torch.cat([z, self.token.expand(len(z), 1, -1)], 1)
        return self.head(self.body(self.drop(z + self.position))[:, -1])


class WithoutPositions(Transformer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.project(x).flatten(2).transpose(1, 2)).mean(1))


class NormalisedBeforePositions(Transformer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = F.layer_norm(self.project(x).flatten(2).transpose(1, 2), (24,))
        return self.head(self.body(z + self.position[:-1]).mean(1))


def build(kind: type[Transformer] = Transformer, **settings: object) -> Transformer:
    with seeding.isolate_randomness(4):
        return kind(**settings)


@settings(max_examples=10, deadline=None)
@given(
    patch=st.sampled_from([2, 3]),
    width=st.sampled_from([16, 24]),
    rate=st.sampled_from([0.0, 0.1, 0.25, 0.5]),
    linear=st.booleans(),
    seed=st.integers(0, 50),
)
def test_recovers_any_transformer_that_adds_learned_positions(patch, width, rate, linear, seed):
    model = build(patch=patch, width=width, rate=rate, linear=linear)
    observation, truth = toy(model, (2, 6, 6), 1, seed=seed)
    guess = solve(NAME, observation)
    torch.testing.assert_close(guess.inputs, truth.batches[0].inputs, atol=1e-8, rtol=1e-8)
    assert guess.objective < 1e-10


@pytest.mark.parametrize("rate", [0.0, *(pytest.param(rate, marks=pytest.mark.slow) for rate in (0.1, 0.25)), 0.5])
@pytest.mark.parametrize("data", [CIFAR, MNIST])
def test_real_images_come_back_exactly_without_labels(data, rate):
    knows = ("batch-size", "dropout-rates", "input-statistics")
    observation, truth, world = watched(data=data, model={"name": "vit-small", "dropout": rate}, knows=knows)
    guess = solve(NAME, observation)
    assert min(psnr_of(guess, truth, world.data.dataset.spec)) > 110
    assert torch.equal(guess.labels, truth.batches[0].labels)
    assert guess.objective < 1e-6
    assert guess.masks is None


@pytest.mark.parametrize("channels", [1, 3])
def test_torchvision_transformer(channels):
    from torchvision.models import VisionTransformer

    with seeding.isolate_randomness(1):
        model = VisionTransformer(32, 8, 2, 2, 64, 64, dropout=0.1, attention_dropout=0.1, num_classes=4)
        if channels == 1:
            model = nn.Sequential(Repeat(), model)
        for module in model.modules():
            if isinstance(module, nn.Linear) and module.out_features == 4:
                nn.init.normal_(module.weight, std=0.1)
    observation, truth = toy(model, (channels, 32, 32), 1)
    guess = solve(NAME, observation)
    torch.testing.assert_close(guess.inputs, truth.batches[0].inputs, atol=1e-8, rtol=1e-8)


class Repeat(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.expand(-1, 3, -1, -1)


def refusals():
    shape = (2, 6, 6)
    frozen = build()
    frozen.position.requires_grad_(False)
    silent = build()
    nn.init.zeros_(silent.head.weight)
    return {
        "2 images": toy(build(), shape, 2)[0],
        "no layer projects patches": watched()[0],
        "no learned position embedding": toy(build(WithoutPositions), shape, 1)[0],
        "no learned position .* added to": toy(build(NormalisedBeforePositions), shape, 1)[0],
        "'position' is frozen": toy(frozen, shape, 1)[0],
        "is zero": toy(silent, shape, 1)[0],
        "fewer equations than unknowns": toy(build(width=8), shape, 1)[0],
        "3 local steps": replace(toy(build(), shape, 1)[0], local_steps=3),
    }


def test_refuses_with_the_reason():
    assert_refused(NAME, refusals())
