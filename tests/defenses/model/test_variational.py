"""Both variational bottlenecks: the divergence and the randomness."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from defenses.model._variational import VariationalBottleneck, divergence, moments
from defenses.model.cvb import ConvolutionalBottleneck
from defenses.model.precode import LinearBottleneck, Precode, PrecodeConfig
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import HookContext, LocalStep
from fedsim.core.types import Batch
from fedsim.core.types.effects import NoiseModules
from fedsim.federation.client import local_training
from fedsim.scenario import Scenario
from fedsim.scenario.world import World, build
from tests.federating import scenario

Build = Callable[..., Scenario]
CONVNET = {"name": "convnet", "width": 4, "dropout": 0.25}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def world(name: str, **settings_: Any) -> World:
    return build(scenario(model=CONVNET, defenses=[{"name": name, **settings_}], federation={"batch_size": 3}))


@pytest.mark.paper_step("cvb", "divergence of the maps from the standard normal law")
@pytest.mark.paper_step("precode", "divergence from the standard normal law")
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 3), st.integers(0, 1000))
def test_the_divergence_is_that_of_torch(examples: int, latent: int, side: int, seed: int) -> None:
    numbers = generator(seed)
    statistics = 3.0 * torch.randn(examples, 2 * latent, side, side, generator=numbers, dtype=torch.float64)
    mean, deviation = moments(statistics, 1, 5.0)
    expected = kl_divergence(Normal(mean, deviation), Normal(0.0, 1.0)).flatten(1).sum(1)
    assert torch.allclose(divergence(mean, deviation), expected)


@pytest.mark.paper_step("cvb", "sampling of the maps, also in evaluation")
@pytest.mark.paper_step("precode", "sampling in training and in evaluation")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("bottleneck", "shape"), [(LinearBottleneck(6, 4), (3, 6)), (ConvolutionalBottleneck(6, 4, 3), (3, 6, 5, 7))]
)
def test_it_samples_in_training_and_in_evaluation(
    bottleneck: VariationalBottleneck, shape: tuple[int, ...], training: bool
) -> None:
    bottleneck.train(training)
    features = torch.randn(shape, generator=generator())
    bottleneck.noise.generator = generator(1)
    first, second = bottleneck(features), bottleneck(features)
    assert first.shape == features.shape
    assert not torch.allclose(first, second)
    bottleneck.noise.generator = generator(1)
    assert torch.equal(bottleneck(features), first)


@pytest.mark.paper_step("cvb", "latent maps from mean and clipped deviation")
@pytest.mark.paper_step("precode", "latent features from mean and deviation")
def test_latent_features_have_the_stated_law() -> None:
    bottleneck = LinearBottleneck(2, 3)
    bottleneck.decode = nn.Identity()
    bottleneck.noise.generator = generator(7)
    features = torch.randn(1, 2, generator=generator()).expand(40_000, 2)
    mean, deviation = moments(bottleneck.encode(features[:1]), -1, torch.inf)
    latent = bottleneck(features)
    assert torch.allclose(latent.mean(0), mean[0], atol=0.02)
    assert torch.allclose(latent.std(0), deviation[0], rtol=0.02)


def test_models_without_a_place_are_refused() -> None:
    with pytest.raises(FedsimError, match="no convolution"):
        build(scenario(defenses=[{"name": "cvb"}])).models.new()
    with pytest.raises(FedsimError, match="does not end in a linear layer"):
        Precode(PrecodeConfig()).prepare(nn.Conv2d(1, 1, 1), generator())


@pytest.mark.paper_step("cvb", "loss with beta times this divergence")
@pytest.mark.paper_step("precode", "loss grows by beta times the divergence")
@pytest.mark.parametrize("name", ["precode", "cvb"])
def test_the_loss_grows_by_beta_times_the_mean_divergence(name: str) -> None:
    """The other parts of the loss do not depend on beta, since the noise does not."""
    gradients = {
        beta: local_training(w := world(name, beta=beta), w.models.first_weights, 1, 0)[0] for beta in (0.0, 0.5)
    }
    assert gradients[0.0].loss < gradients[0.5].loss
    built = world(name)
    defense, model = built.stack.defenses[0], built.models.load_weights(built.models.first_weights)
    batch = next(iter(built.data.batches(1, 0)))
    here = HookContext(
        1, 0, 0, generator(), local=LocalStep(model, built.models.parameters, Batch(batch.inputs, batch.labels), 3.0)
    )
    defense.on_batch(batch, here)
    seen: list[Tensor] = []
    ((module,),) = (one.names for one in defense.adaptive_view().effects if isinstance(one, NoiseModules))
    place = module.removesuffix(".noise")
    bottleneck = model.get_submodule(place)
    assert isinstance(bottleneck, VariationalBottleneck)
    bottleneck.encode.register_forward_hook(lambda _m, _i, statistics: seen.append(statistics))
    outputs = model(batch.inputs)
    mean, deviation = moments(seen[0], bottleneck.axis, bottleneck.limit)
    expected = 1e-3 * kl_divergence(Normal(mean, deviation), Normal(0.0, 1.0)).sum() / 3
    added = defense.loss(outputs, here)
    assert torch.allclose(added, expected)
    defense.on_gradient({}, here)
    assert bottleneck.noise.generator is None
    assert bottleneck.observed is None


@pytest.mark.parametrize("name", ["precode", "cvb"])
def test_clients_and_rounds_draw_noise_of_their_own_and_repeat_it(name: str) -> None:
    built = world(name, beta=0.0)

    def sent(round_: int, client: int) -> Tensor:
        update, _ = local_training(built, built.models.first_weights, round_, client)
        return torch.cat([tensor.flatten() for tensor in update.tensors.values()])

    assert torch.equal(sent(1, 0), sent(1, 0))
    assert not torch.equal(sent(1, 0), sent(2, 0))
    assert not torch.equal(sent(1, 0), sent(1, 1))
