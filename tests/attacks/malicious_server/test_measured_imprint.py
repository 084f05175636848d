"""Images behind measurements, against bins that are counted by hand and activations that are known."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from attacks.malicious_server.measured_imprint import _measure_imprint_input
from fedsim.core import seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.types import InputSpec, Observation, ThreatModel, Truth
from tests.attacks.malicious_server.servers import SHAPE, observed
from tests.attacks.solving import answer, attack_named, hiding, resending
from tests.federating import scenario

NAME = "measured-imprint"
SPEC = InputSpec(SHAPE, 4, (0.5,) * 3, (0.2,) * 3)
PIXELS = 48


def dense(
    width: int = 120, bins: int = 64, between: float = 0.0, behind: float = 0.0, *, bias: bool = True
) -> nn.Module:
    with seeding.isolate_randomness(2):
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(PIXELS, width, bias=bias),
            nn.ReLU(),
            nn.Dropout(between),
            nn.Linear(width, bins, bias=bias),
            nn.ReLU(),
            nn.Dropout(behind),
            nn.Linear(bins, 4, bias=bias),
        )


def convolved(between: nn.Module, bins: int = 64) -> nn.Sequential:
    """Convolutions with strides and a padding, something between them, and two dense layers."""
    features = 20 * (2 if isinstance(between, nn.MaxPool2d | nn.AvgPool2d) else 4) ** 2
    with seeding.isolate_randomness(2):
        return nn.Sequential(
            *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), between, nn.Conv2d(16, 20, 3, padding=1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(features, bins), nn.ReLU(), nn.Linear(bins, 4, bias=False)),
        )


def public(seed: int = 0) -> Tensor:
    return torch.randn((600, *SHAPE), generator=torch.Generator().manual_seed(1000 + seed), dtype=torch.float64)


def crafted(attack, model: nn.Module, seed: int = 0) -> nn.Module:
    return attack.craft(model.double(), SPEC, public(seed), torch.Generator().manual_seed(seed))


def client(model: nn.Module, batch: int, seed: int = 0) -> tuple[Observation, Truth]:
    """Without the normalisation, so that no guess is pressed into the range of pixels."""
    observation, truth = observed(model, batch, seed)
    return replace(observation, threat=ThreatModel(server="malicious", knows=("batch-size", "dropout-rates"))), truth


def alone(model: nn.Module, inputs: Tensor) -> list[bool]:
    """Whether each example is in a bin, and no other is there with it: how many units fire for it says which."""
    with torch.no_grad():
        fired = (model[:5](inputs) > 0).sum(1).tolist()  # type: ignore[index, operator]
    return [count > 0 and fired.count(count) == 1 for count in fired]


def found(guess: Tensor, inputs: Tensor, bound: float) -> list[bool]:
    if not len(guess):
        return [False] * len(inputs)
    return ((inputs[:, None] - guess[None]).abs().flatten(2).amax(2) < bound).any(1).tolist()


@pytest.mark.parametrize("batch", [1, 6, 20])
@pytest.mark.parametrize("seed", [0, 1])
def test_with_more_measurements_than_pixels_what_is_alone_in_its_bin_comes_back_and_nothing_else(batch, seed) -> None:
    attack = attack_named(NAME, strength=1e-9)
    model = crafted(attack, dense(), seed)
    observation, truth = client(model, batch, seed)
    inputs = truth.batches[0].inputs
    # A difference of neighbouring rows is rounded by a batch's sum of them, and the solver inverts a well-posed system.
    assert found(answer(attack, observation).inputs, inputs, 1e-4) == alone(model, inputs)


def test_every_unit_of_the_first_layer_is_active_for_every_image() -> None:
    model = crafted(attack_named(NAME), dense())
    source = torch.Generator().manual_seed(0)
    pixels = torch.cat(
        (torch.zeros(1, PIXELS), torch.ones(1, PIXELS), (torch.rand(200, PIXELS, generator=source) > 0.5))
    )
    weight, bias = (own.detach() for own in (model[1].weight, model[1].bias))  # type: ignore[index, union-attr]
    worst = (torch.where(weight > 0, 0.0, 1.0).double() - 0.5) / 0.2  # the image that is least for each unit
    assert bool((model[1]((pixels.double() - 0.5) / 0.2) >= 1 - 1e-9).all())  # type: ignore[index, operator]
    torch.testing.assert_close((weight * worst).sum(1) + bias, torch.ones(120).double())


def test_behind_convolutions_what_is_alone_comes_back_and_nothing_else() -> None:
    attack = attack_named(NAME, strength=1e-9, iterations=2000)
    model = crafted(attack, convolved(nn.Identity()))
    observation, truth = client(model, 6)
    inputs = truth.batches[0].inputs
    with torch.no_grad():
        fired = (model[:7](inputs) > 0).sum(1).tolist()  # type: ignore[index, operator]
    expected = [count > 0 and fired.count(count) == 1 for count in fired]
    assert found(answer(attack, observation).inputs, inputs, 1e-2) == expected  # some singular values are small
    assert sum(expected) > 3


def test_what_an_imprint_behind_convolutions_reads_is_the_affine_map_by_derivatives() -> None:
    model = crafted(attack_named(NAME), convolved(nn.AvgPool2d(2)))
    source = torch.Generator().manual_seed(0)
    corners = (torch.rand((100, *SHAPE), generator=source).double() > 0.5).double()
    images = (torch.cat([corners, torch.rand((9, *SHAPE), generator=source).double()]) - 0.5) / 0.2
    affine = _measure_imprint_input(model, "6", SPEC)
    slopes = torch.autograd.functional.jacobian(model[:6], images[-1:]).view(80, PIXELS)  # type: ignore[index]
    torch.testing.assert_close(affine.matrix, slopes)
    with torch.no_grad():
        torch.testing.assert_close(images.flatten(1) @ affine.matrix.T + affine.offset, model[:6](images))  # type: ignore[index, operator]
        assert all(float(model[:end](images).min()) > 1 - 1e-9 for end in (1, 4))  # type: ignore[index, operator]


def test_an_image_of_few_edges_comes_back_from_half_as_many_measurements_as_pixels() -> None:
    attack = attack_named(NAME, iterations=5000)
    model = crafted(attack, dense(width=24))
    image = torch.full((1, *SHAPE), -1.0, dtype=torch.float64)
    image[:, 0, :2], image[:, 1, :, 2:], image[:, 2, 1:3] = 1.5, 0.5, 2.0
    observation, _ = client(model, 1)
    label = torch.tensor([1])
    guess = answer(attack, replace(resending(observation, image, label), labels=label)).inputs
    assert float((guess - image).abs().max()) < 0.05  # the prior draws edges together by about its strength


def test_dropout_between_the_layers_leaves_fewer_measurements() -> None:
    attack = attack_named(NAME, strength=1e-9)
    model = crafted(attack, dense(200, between=0.25))
    observation, truth = client(model, 6)
    assert sum(found(answer(attack, observation).inputs, truth.batches[0].inputs, 1e-3)) >= 4


@pytest.mark.parametrize("seed", range(3))
def test_dropout_behind_the_bins_leaves_those_whose_brighter_examples_cancel_all_the_same(seed) -> None:
    """A brighter example cancels in a difference if dropout keeps, or drops, both of the bin's units for it."""
    attack = attack_named(NAME, strength=1e-9)
    model = crafted(attack, dense(behind=0.25))
    observation, truth = client(model, 8, seed)
    inputs, (masks,) = truth.batches[0].inputs, truth.masks[0]
    with torch.no_grad():
        fired = (model[:5](inputs) > 0).sum(1).tolist()  # type: ignore[index, operator]
    kept = torch.cat((masks, torch.zeros(8, 1)), 1).bool()  # no unit is behind the last one
    expected = [
        own > 0
        and fired.count(own) == 1
        and bool(kept[number, own - 1])
        and all(kept[k, own - 1] == kept[k, own] for k, other in enumerate(fired) if other > own)
        for number, own in enumerate(fired)
    ]
    assert found(answer(attack, observation).inputs, inputs, 1e-4) == expected
    assert sum(expected) < 6


def test_bins_are_nested_and_equally_likely_for_the_servers_examples() -> None:
    model = crafted(attack_named(NAME), dense(bins=10))
    fired = (model[:5](public()) > 0).double().mean(0)  # type: ignore[index, operator]
    torch.testing.assert_close(fired, 1 - (torch.arange(10).double() + 0.5) / 10, atol=1 / 600, rtol=0)
    rows, biases = model[4].weight, model[4].bias  # type: ignore[index]
    assert torch.equal(rows, rows[:1].expand_as(rows))
    assert all(low > high for low, high in pairwise(biases.tolist()))


def test_only_weights_of_three_layers_change() -> None:
    from fedsim.scenario import world as worlds

    model = {"name": "mlp", "width": 16, "depth": 3, "bias": True, "activation": "relu"}
    world = worlds.build(scenario(model=model, threat={"server": "malicious"}, attacks=[{"name": NAME}]))
    names = {f"{layer}.{part}" for layer in (1, 4, 7) for part in ("weight", "bias")}
    assert world.models.crafted_changes.tensors.keys() == names
    assert not world.models.crafted_changes.added_names


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (
            nn.Sequential(nn.Flatten(), nn.Linear(48, 9), nn.ReLU(), nn.Linear(9, 4)),
            "two linear layers after the measuring layers, and the model has 1",
        ),
        (nn.Sequential(*dense()[:2], nn.Tanh(), *dense()[3:]), "the layers before '4' are not affine"),  # type: ignore[index]
        (convolved(nn.MaxPool2d(2)), "the layers before '6' are not affine"),
        (convolved(nn.GroupNorm(2, 16)), "the layers before '6' are not affine"),
        (
            nn.Sequential(nn.Conv2d(3, 20, 3, padding=1, bias=False), *convolved(nn.Identity())[5:]),  # type: ignore[index]
            "layer '0' has no bias",
        ),
        (nn.Sequential(*dense()[:5], nn.Tanh(), *dense()[6:]), "layer '4' is not followed by a plain ReLU"),  # type: ignore[index]
        (dense(bias=False), "layer '1' has no bias"),
    ],
)
def test_craft_refuses_models_without_a_place_for_it(model, reason) -> None:
    with pytest.raises(NotApplicable, match=reason):
        crafted(attack_named(NAME), model)


def test_refuses_with_the_reason() -> None:
    attack = attack_named(NAME)
    observation, _ = client(crafted(attack, dense()), 2)
    hidden = hiding(observation, "4.weight")
    honest, _ = client(dense(), 2)
    for changed, reason in (
        (honest, "has no imprint"),
        (replace(observation, local_steps=3), "3 local steps"),
        (hidden, "does not see the gradient"),
    ):
        with pytest.raises(NotApplicable, match=reason):
            answer(attack, changed)
    with pytest.raises(NotApplicable, match="test set of these data is the training set"):
        attack.craft(dense().double(), SPEC, public()[:1], torch.Generator())
    with pytest.raises(NotApplicable, match="the same for all examples"):
        attack.craft(dense().double(), SPEC, public()[:1].expand(9, *SHAPE), torch.Generator().manual_seed(0))
