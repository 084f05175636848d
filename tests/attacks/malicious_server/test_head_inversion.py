"""Features of a head, against units that are counted by hand, and images behind them, which a smooth backbone shows."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from attacks.malicious_server.head_inversion import _isolate_features
from fedsim.core import seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.types import InputSpec, Observation, ThreatModel, Truth
from tests.attacks.malicious_server.servers import SHAPE, observed
from tests.attacks.solving import answer, attack_named, hiding, resending
from tests.federating import scenario

NAME = "head-inversion"
SPEC = InputSpec(SHAPE, 4, (0.5,) * 3, (0.2,) * 3)
PIXELS = 48


def transferred(features: int = 96, layers: int = 2, front: float = 0.0, behind: float = 0.0) -> nn.Module:
    """A frozen backbone with an inverse where it has more features than pixels, and a head."""
    with seeding.isolate_randomness(2):
        backbone = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, features), nn.LeakyReLU(0.5), nn.Dropout(front))
        hidden = [nn.Linear(features, 256), nn.ReLU(), nn.Dropout(behind)] if layers > 1 else []
        return nn.Sequential(backbone.requires_grad_(False), *hidden, nn.Linear(256 if hidden else features, 4))


def public(seed: int = 0) -> Tensor:
    return torch.randn((200, *SHAPE), generator=torch.Generator().manual_seed(1000 + seed), dtype=torch.float64)


def crafted(attack, model: nn.Module, seed: int = 0) -> nn.Module:
    return attack.craft(model.double(), SPEC, public(seed), torch.Generator().manual_seed(seed))


def client(model: nn.Module, batch: int, seed: int = 0) -> tuple[Observation, Truth]:
    """Without the normalisation, so that no guess is pressed into the range of pixels."""
    observation, truth = observed(model, batch, seed)
    return replace(observation, threat=ThreatModel(server="malicious", knows=("batch-size", "dropout-rates"))), truth


def found(guess: Tensor, inputs: Tensor, bound: float) -> list[bool]:
    if not len(guess):
        return [False] * len(inputs)
    return ((inputs[:, None] - guess[None]).abs().flatten(2).amax(2) < bound).any(1).tolist()


@pytest.mark.parametrize("batch", [1, 6, 20])
def test_what_fires_a_unit_alone_comes_back_and_nothing_else(batch) -> None:
    attack = attack_named(NAME)
    model = crafted(attack, transferred())
    observation, truth = client(model, batch)
    inputs = truth.batches[0].inputs
    with torch.no_grad():
        fired = model[:2](inputs) > 0  # type: ignore[index, operator]
    alone = (fired & (fired.sum(0) == 1)).any(1)
    guess = answer(attack, observation).inputs
    # Steps end where features agree to single precision; the backbone's least slope makes more of that.
    assert found(guess, inputs, 1e-3) == alone.tolist()
    assert len(guess) == int(alone.sum())
    assert int(alone.sum()) > 0.7 * batch


def test_mixtures_of_one_class_whose_errors_are_nearly_parallel_are_not_taken_for_examples() -> None:
    model = crafted(attack_named(NAME), transferred())
    observation, truth = client(model, 8)
    inputs = truth.batches[0].inputs
    with torch.no_grad():
        fired = model[:2](inputs) > 0  # type: ignore[index, operator]
    several = ((fired & (fired.sum(0) == 1)).sum(1) > 1).sum()
    _, diagnostics = _isolate_features(resending(observation, inputs, torch.ones(8).long()), "1")
    assert diagnostics["examples seen in several units"] == int(several)


def test_a_head_of_one_layer_tells_fewer_examples_than_classes() -> None:
    attack = attack_named(NAME)
    model = crafted(attack, transferred(layers=1))
    observation, truth = client(model, 2)
    assert found(answer(attack, observation).inputs, truth.batches[0].inputs, 1e-2) == [True, True]
    with pytest.raises(NotApplicable, match="fewer examples than its 4 classes"):
        answer(attack, client(model, 4)[0])


def test_dropout_in_front_of_the_head_leaves_fewer_features() -> None:
    attack = attack_named(NAME)
    model = crafted(attack, transferred(200, front=0.25))
    observation, truth = client(model, 4)
    assert sum(found(answer(attack, observation).inputs, truth.batches[0].inputs, 1e-2)) >= 3


def test_dropout_behind_the_first_layer_changes_which_units_fire_alone() -> None:
    attack = attack_named(NAME)
    model = crafted(attack, transferred(behind=0.5))
    observation, truth = client(model, 12)
    with torch.no_grad():
        fired = (model[:2](truth.batches[0].inputs) > 0) & (truth.masks[0][-1] > 0)  # type: ignore[index, operator]
    units = (fired & (fired.sum(0) == 1)).sum(1)
    back = torch.tensor(found(answer(attack, observation).inputs, truth.batches[0].inputs, 1e-3))
    # One unit's word is not taken where the unit would fire for another example too, were it not dropped.
    assert bool((back[units > 1]).all())
    assert not bool(back[units == 0].any())


def test_images_come_nearer_by_the_servers_own_where_features_are_few() -> None:
    attack = attack_named(NAME)
    source = torch.Generator().manual_seed(0)
    smooth = torch.randn(201, 6, generator=source).double() @ torch.randn(6, PIXELS, generator=source).double()
    images = smooth.view(-1, *SHAPE)
    model = attack.craft(transferred(12).double(), SPEC, images[:200], torch.Generator().manual_seed(0))
    observation, _ = client(model, 1)
    label = torch.tensor([1])
    guess = answer(attack, replace(resending(observation, images[200:], label), labels=label)).inputs
    error, blind = ((own - images[200]).square().mean() for own in (guess, images[:200].mean(0)))
    assert float(error) < 0.1 * float(blind)


def test_rows_lie_across_the_mean_and_biases_make_units_fire_by_shares_that_are_drawn() -> None:
    attack = attack_named(NAME, rarest=0.01, commonest=0.4)
    model, plain = crafted(attack, transferred()), transferred().double()
    with torch.no_grad():
        read = model[0](public())  # type: ignore[index, operator]
        shares = (model[:2](public()) > 0).double().mean(0)  # type: ignore[index, operator]
        places = model[1].weight @ read.mean(0)  # type: ignore[index]
    assert float(places.abs().max()) < 1e-9
    assert 0.005 <= float(shares.min()) <= 0.02
    assert 0.35 <= float(shares.max()) <= 0.4
    assert float((shares.log() / 0.5).median()) == pytest.approx(float(torch.tensor(0.01 * 0.4).log()), abs=0.5)
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, plain.state_dict()[name])]
    assert changed == ["1.weight", "1.bias"]


def test_only_the_heads_first_layer_changes_and_the_images_are_not_sent() -> None:
    from fedsim.scenario import world as worlds

    model = {"name": "mlp", "width": 16, "depth": 1, "bias": True}
    head = [{"name": "transfer-head", "width": 20}]
    attacks = [{"name": NAME}]
    world = worlds.build(scenario(model=model, components=head, threat={"server": "malicious"}, attacks=attacks))
    assert world.models.crafted_changes.tensors.keys() == {"4.0.weight", "4.0.bias"}
    assert not world.models.crafted_changes.added_names
    assert all("images" not in name for name in world.models.first_weights)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (transferred().requires_grad_(False), "no trained linear layer"),
        (nn.Sequential(transferred()[0], nn.Linear(96, 9), nn.GELU(), nn.Linear(9, 4)), "plain ReLU"),  # type: ignore[index]
        (nn.Sequential(transferred()[0], nn.Linear(96, 4, bias=False)), "layer '1' has no bias"),  # type: ignore[index]
    ],
)
def test_craft_refuses_models_without_a_place_for_it(model, reason) -> None:
    with pytest.raises(NotApplicable, match=reason):
        crafted(attack_named(NAME), model)


def test_refuses_with_the_reason() -> None:
    attack = attack_named(NAME)
    observation, _ = client(crafted(attack, transferred()), 2)
    hidden = hiding(observation, "1.bias")
    honest, _ = client(transferred(), 2)
    for changed, reason in (
        (honest, "did not write the clients' head"),
        (replace(observation, local_steps=3), "3 local steps"),
        (hidden, "does not see the gradient"),
    ):
        with pytest.raises(NotApplicable, match=reason):
            answer(attack, changed)
    with pytest.raises(NotApplicable, match="test set of these data is the training set"):
        attack.craft(transferred().double(), SPEC, public()[:1], torch.Generator())
    with pytest.raises(NotApplicable, match="the same for all examples"):
        attack.craft(transferred().double(), SPEC, public()[:1].expand(9, *SHAPE), torch.Generator().manual_seed(0))
