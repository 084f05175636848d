"""The fast path beside the general one, which builds every gradient explicitly."""

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionTransformer

from attacks.core.matching.comparison import Comparison, GeneralComparison
from attacks.core.matching.ghost import CompiledComparison, GhostComparison, fastest
from attacks.core.matching.simulated_client import SimulatedClient, simulated_client
from fedsim.core import seeding
from fedsim.core.types import InputSpec, Masks, Observation
from fedsim.models.convnet import ConvnetConfig, convnet
from fedsim.models.lenet import LenetConfig, lenet
from fedsim.models.mlp import MlpConfig, mlp
from fedsim.models.resnet18 import Resnet18Config, resnet18
from fedsim.models.vit_small import VitSmallConfig, vit_small
from tests.attacks.core.matching.measures import cosine, squared
from tests.attacks.solving import toy

Measure = Callable[..., Tensor]
CLASSES = 4


def spec_of(*shape: int) -> InputSpec:
    return InputSpec(shape, CLASSES, (0.0,) * shape[0], (1.0,) * shape[0])


class Embedded(nn.Module):
    """Pixels beside embedded places and a learned class token."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Embedding(6, 5)
        self.token = nn.Parameter(torch.randn(1, 1, 5))
        self.mix = nn.Linear(5, 5)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        places = self.places(torch.arange(6).expand(len(images), 6))
        tokens = places * images.flatten(1).unsqueeze(-1)
        tokens = torch.cat([self.token.expand(len(images), -1, -1), tokens], 1)
        return self.head(F.dropout(torch.tanh(self.mix(tokens)), 0.25, self.training).mean(1))


class Tied(nn.Module):
    """Two layers that share a weight, and one that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.head = nn.Linear(6, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.second(torch.tanh(self.first(images.flatten(1))))
        return self.head(F.dropout(torch.tanh(self.second(torch.tanh(hidden))), 0.5, self.training))


def with_inplace_activations() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(18, 8),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5, inplace=True),
        nn.Linear(8, CLASSES),
    )


def torchvision_transformer() -> nn.Module:
    model = TorchvisionTransformer(
        8, 4, 2, 2, 12, 16, dropout=0.25, attention_dropout=0.25, num_classes=CLASSES
    )  # image, patch, blocks, heads, width, hidden
    nn.init.normal_(model.heads.head.weight, std=0.1)  # torchvision starts it at zero
    return model


def attention_before_any_other_dropout() -> nn.Module:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, dropout=0.25, batch_first=True)
            self.head = nn.Linear(4, CLASSES)

        def forward(self, images: Tensor) -> Tensor:
            tokens = images.flatten(2).mT
            return self.head(self.attention(tokens, tokens, tokens, need_weights=True)[0].mean(1))

    return Attending()


def tokens_first() -> nn.Module:
    class TokensFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0)
            self.head = nn.Linear(4, CLASSES)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.block(images.flatten(2).permute(2, 0, 1)).mean(0))

    return TokensFirst()


SUITED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: mlp(MlpConfig(width=12), spec_of(1, 3, 3)), (1, 3, 3)),
    "mlp with biases": (lambda: mlp(MlpConfig(width=12, bias=True), spec_of(1, 3, 3)), (1, 3, 3)),
    "lenet": (lambda: lenet(LenetConfig(), spec_of(1, 29, 29)), (1, 29, 29)),
    "convnet": (lambda: convnet(ConvnetConfig(width=4, normalisation="group"), spec_of(2, 6, 5)), (2, 6, 5)),
    "resnet18": (lambda: resnet18(Resnet18Config(), spec_of(1, 8, 8)), (1, 8, 8)),
    "vit-small": (lambda: vit_small(VitSmallConfig(blocks=2), spec_of(3, 8, 8)), (3, 8, 8)),
    "torchvision's transformer": (torchvision_transformer, (3, 8, 8)),
    "attention first": (attention_before_any_other_dropout, (4, 2, 3)),
    "tokens first": (tokens_first, (4, 2, 3)),
    "embedding": (Embedded, (1, 2, 3)),
    "tied": (Tied, (1, 2, 3)),
    "in-place activations": (with_inplace_activations, (1, 2, 3)),
}


class Transposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight


class OneOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(6, 1)
        self.head = nn.Linear(1, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.tanh(self.one(images.flatten(1))))


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.first(images.flatten(1)).tanh_())


class SharedPlaces(nn.Module):
    """An embedding that is broadcast over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Embedding(6, 1)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.tanh(images.flatten(1) + self.places(torch.arange(6)).flatten()))


class OneOutputAndZeros(nn.Module):
    """Two classes by one score, in a model that tells apart more."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(6, 1)

    def forward(self, images: Tensor) -> Tensor:
        return F.pad(self.score(images.flatten(1)), (0, CLASSES - 1))


def between(*layers: nn.Module, features: int) -> nn.Module:
    return nn.Sequential(*layers, nn.Tanh(), nn.Flatten(), nn.Linear(features, CLASSES))


UNSUITED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "batch normalisation": (
        lambda: between(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), features=12),
        (1, 2, 3),
    ),
    "x @ self.weight": (Transposed, (1, 2, 3)),
    "grouped convolution": (lambda: between(nn.Conv2d(2, 4, 1, groups=2), features=24), (2, 2, 3)),
    "padding in words": (lambda: between(nn.Conv2d(1, 2, 3, padding="same"), features=12), (1, 2, 3)),
    "one output": (OneOutput, (1, 2, 3)),
    "one output and zeros": (OneOutputAndZeros, (1, 2, 3)),
    "a user's in-place operation": (InPlace, (1, 2, 3)),
    "broadcast embedding": (SharedPlaces, (1, 2, 3)),
}


def observed(build: Callable[[], nn.Module], shape: tuple[int, ...], dtype: torch.dtype) -> list[Observation]:
    """Two victims of one model, with two examples each."""
    with seeding.isolate_randomness(1):
        model = build()
    return [toy(model, shape, 2, classes=CLASSES, seed=seed, dtype=dtype)[0] for seed in (1, 2)]


def own(observation: Observation) -> SimulatedClient:
    return simulated_client(observation, observation.sites, True)


def chosen(observations: Sequence[Observation]) -> Comparison:
    masks = tuple(torch.ones(site.shape) for site in observations[0].sites)
    return fastest(own(observations[0]), observations, 2, masks, torch.Generator().manual_seed(0))


def figures(
    comparison: Comparison, distance: Measure, inputs: Tensor, masks: Masks, labels: Tensor, victims: list[int]
) -> tuple[Tensor, list[Tensor]]:
    leaves = [tensor.clone().requires_grad_() for tensor in (inputs, *masks)]
    values = distance(comparison.gradients(leaves[0], tuple(leaves[1:]), labels, victims))
    return values.detach(), list(torch.autograd.grad(values.sum(), leaves, materialize_grads=True))


def dummies(observation: Observation, victims: list[int], seed: int = 3) -> tuple[Tensor, Masks, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    like = next(observation.model.parameters())
    rows, examples = len(victims), observation.batch_size or 1
    inputs = torch.randn((rows, examples, *observation.spec.shape), generator=generator).to(like)
    masks = tuple(torch.rand((rows, *site.shape), generator=generator).to(like) for site in observation.sites)
    return inputs, masks, torch.randint(CLASSES, (rows, examples), generator=generator)


def compare(observation: Observation, rows: int, seed: int) -> None:
    """Hold both paths to the same figures in double precision."""
    client, victims = own(observation), [0] * rows
    inputs, masks, labels = dummies(observation, victims, seed)
    ours, slopes = figures(GhostComparison(client, [observation]), cosine, inputs, masks, labels, victims)
    theirs, others = figures(GeneralComparison(client, [observation]), cosine, inputs, masks, labels, victims)
    assert torch.allclose(ours, theirs, atol=1e-9)
    for slope, other in zip(slopes, others, strict=True):
        assert torch.allclose(slope, other, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "resnet18" else ()) for name in SUITED]
)
def test_ghost_equals_general(name: str) -> None:
    observations = observed(*SUITED[name], torch.float32)
    ghost = chosen(observations)
    assert ghost.name == "ghost"
    general = GeneralComparison(own(observations[0]), observations)
    victims = [1, 0, 1]
    inputs, masks, labels = dummies(observations[0], victims)
    ours, our_slopes = figures(ghost, cosine, inputs, masks, labels, victims)
    theirs, their_slopes = figures(general, cosine, inputs, masks, labels, victims)
    assert torch.allclose(ours, theirs, atol=1e-6, rtol=0)
    for slope, other in zip(our_slopes, their_slopes, strict=True):
        assert float((slope - other).norm()) <= 1e-4 * float(other.norm())


@pytest.mark.parametrize("name", UNSUITED)
def test_models_that_do_not_fit_take_the_general_path(name: str) -> None:
    observations = observed(*UNSUITED[name], torch.float32)
    assert chosen(observations).name == "general"


def test_a_padded_embedding_takes_the_general_path() -> None:
    def build() -> nn.Module:
        model = Embedded()
        model.places = nn.Embedding(6, 5, padding_idx=2)
        return model

    assert chosen(observed(build, (1, 2, 3), torch.float32)).name == "general"


def test_frozen_and_hidden_parameters_are_left_out() -> None:
    def build() -> nn.Module:
        model = mlp(MlpConfig(width=6, depth=2, bias=True), spec_of(1, 2, 3))
        model.get_parameter("4.bias").requires_grad_(False)
        return model

    observations = observed(build, (1, 2, 3), torch.float32)
    ghost = chosen(observations)
    inputs, masks, labels = dummies(observations[0], [0])
    assert ghost.name == "ghost"
    assert ghost.gradients(inputs.requires_grad_(), masks, labels, [0]).squared_norms().shape == (1, 5)


@given(
    width=st.integers(2, 6),  # a layer with one output takes the general path
    depth=st.integers(1, 3),
    bias=st.booleans(),
    examples=st.integers(1, 4),
    rows=st.integers(1, 5),
    seed=st.integers(0, 100),
)
@settings(max_examples=30, deadline=None)
def test_mlps_of_all_shapes(width: int, depth: int, bias: bool, examples: int, rows: int, seed: int) -> None:
    with seeding.isolate_randomness(seed):
        model = mlp(MlpConfig(width=width, depth=depth, bias=bias), spec_of(1, 2, 2))
    observation, _ = toy(model, (1, 2, 2), examples, classes=CLASSES, seed=seed)
    compare(observation, rows, seed)


@given(
    channels=st.tuples(st.integers(1, 3), st.integers(2, 4)),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    examples=st.integers(1, 3),
    rows=st.integers(1, 4),
)
@settings(max_examples=30, deadline=None)
def test_convolutions_of_all_shapes(
    channels: tuple[int, int], kernel: int, stride: int, padding: int, examples: int, rows: int
) -> None:
    with seeding.isolate_randomness(kernel):
        first = nn.Conv2d(*channels, kernel, stride, padding)
        features = first(torch.zeros(1, channels[0], 5, 4)).numel()
        model = between(first, nn.GroupNorm(1, channels[1]), nn.Dropout(0.5), features=features)
    observation, _ = toy(model, (channels[0], 5, 4), examples, classes=CLASSES)
    compare(observation, rows, 1)


def test_the_observed_model_and_its_settings_stay_as_they_are() -> None:
    observations = observed(with_inplace_activations, (1, 2, 3), torch.float32)
    before = {name: tensor.clone() for name, tensor in observations[0].model.state_dict().items()}
    inputs, masks, labels = dummies(observations[0], [0])
    chosen(observations).gradients(inputs.requires_grad_(), masks, labels, [0])
    model = observations[0].model
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(module.inplace for module in model.modules() if isinstance(module, nn.ReLU))
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.slow  # compiles for minutes
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_the_compiled_path_is_the_fast_one() -> None:
    victims = observed(lambda: mlp(MlpConfig(width=8, depth=1), spec_of(1, 4, 4)), (1, 4, 4), torch.float64)
    ghost = chosen(victims)
    assert isinstance(ghost, GhostComparison)
    inputs, masks, labels = dummies(victims[0], [0, 0])
    plain, compiled = (
        cosine(comparison.gradients(inputs, masks, labels, [0, 0])) for comparison in (ghost, CompiledComparison(ghost))
    )
    assert torch.allclose(plain, compiled, rtol=1e-9)


@pytest.mark.parametrize("distance", [cosine, squared])
@pytest.mark.parametrize("name", ["mlp with biases", "convnet", "torchvision's transformer", "tied"])
def test_every_distance_is_the_same_on_both_paths_in_double_precision(distance: Measure, name: str) -> None:
    observations = observed(*SUITED[name], torch.float64)
    ghost, victims = chosen(observations), [0, 1]
    assert ghost.name == "ghost"
    general = GeneralComparison(own(observations[0]), observations)
    inputs, masks, labels = dummies(observations[0], victims)
    ours, our_slopes = figures(ghost, distance, inputs, masks, labels, victims)
    theirs, slopes = figures(general, distance, inputs, masks, labels, victims)
    assert torch.allclose(ours, theirs, rtol=1e-7, atol=1e-9)
    for slope, other in zip(our_slopes, slopes, strict=True):
        assert float((slope - other).norm()) <= 1e-6 * float(other.norm())
