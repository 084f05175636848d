from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsim.core import seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.types import InputSpec, ThreatModel
from tests.attacks.malicious_server.servers import SHAPE, observed
from tests.attacks.solving import answer, attack_named, psnr_of
from tests.federating import scenario, watched

NAME = "trap-weights"
SPEC = InputSpec(SHAPE, 4, (0.1, 0.4, 0.7), (0.2, 0.3, 0.5))
RELU_MLP = {"name": "mlp", "width": 512, "depth": 2, "bias": True, "activation": "relu", "dropout": 0.0}


def dense(width: int = 64, rate: float = 0.0, activation: type[nn.Module] = nn.ReLU, *, bias: bool = True) -> nn.Module:
    with seeding.isolate_randomness(2):
        first = nn.Linear(48, width, bias=bias)
        return nn.Sequential(nn.Flatten(), first, activation(), nn.Dropout(rate), nn.Linear(width, 4))


class ChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x.permute(0, 2, 3, 1).flatten(1))


def crafted(attack, model: nn.Module, seed: int = 0) -> nn.Module:
    return attack.craft(model.double(), SPEC, torch.zeros(0, *SHAPE), torch.Generator().manual_seed(seed))


@pytest.mark.paper_step("trap-weights", "rows with a negative half that outweighs the positive half")
@pytest.mark.parametrize("scale", [0.95, 0.7])
@pytest.mark.parametrize("build", [dense, ChannelsLast])
def test_rows_see_pixels_with_balanced_halves_whatever_the_normalisation(scale, build):
    with seeding.isolate_randomness(0):
        model = crafted(attack_named(NAME, positive_scale=scale), build())
    name = "body.0" if build is ChannelsLast else "1"
    pixels = torch.rand((5, *SHAPE), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (SPEC.mean, SPEC.std))
    outputs: list[torch.Tensor] = []
    model.get_submodule(name).register_forward_hook(lambda _m, _i, out: outputs.append(out))
    model((pixels - mean) / std)
    black, white = -mean / std, (1 - mean) / std
    model(black.expand(1, *SHAPE))
    torch.testing.assert_close(outputs[1], torch.zeros(1, 64, dtype=torch.float64), atol=1e-12, rtol=0)
    folded = model.get_parameter(f"{name}.weight").detach()
    per_channel = std.view(3).repeat(16) if build is ChannelsLast else std.view(3).repeat_interleave(16)
    rows = folded / per_channel
    assert (rows < 0).sum(1).tolist() == (rows > 0).sum(1).tolist() == [24] * 64
    for row in rows:
        torch.testing.assert_close(row[row > 0].sort().values, scale * (-row[row < 0]).sort().values)
    flat = pixels.permute(0, 2, 3, 1).flatten(1) if build is ChannelsLast else pixels.flatten(1)
    torch.testing.assert_close(outputs[0], flat @ rows.T)
    model(white.expand(1, *SHAPE))
    assert (outputs[2] < 0).all()


@pytest.mark.paper_step("trap-weights", "examples from rows that a single example activates")
@settings(max_examples=30, deadline=None)
@given(
    width=st.integers(8, 120),
    batch_size=st.integers(1, 12),
    seed=st.integers(0, 1000),
    rate=st.sampled_from([0.0, 0.5]),
    scale=st.sampled_from([0.95, 0.6]),
)
def test_rows_with_exactly_one_active_example_are_exact(width, batch_size, seed, rate, scale):
    attack = attack_named(NAME, positive_scale=scale)
    model = crafted(attack, dense(width, rate), seed)
    observation, truth = observed(model, batch_size, seed)
    inputs = truth.batches[0].inputs
    with torch.no_grad():
        active = model[1](inputs.flatten(1)) > 0  # type: ignore[index, operator]
    if truth.masks[0]:
        active &= truth.masks[0][0].bool()
    weight, bias = observation.update.tensors["1.weight"], observation.update.tensors["1.bias"]
    for row in (active.sum(0) == 1).nonzero().flatten().tolist():
        own = inputs[int(active[:, row].nonzero())].flatten()
        torch.testing.assert_close(weight[row] / bias[row], own, atol=1e-8, rtol=1e-8)
    guess = answer(attack, observation)
    assert len(guess.inputs) == len(guess.labels) <= len(inputs)
    assert guess.diagnostics["rows that fired"] <= int(active.any(0).sum())


@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize("knows", [(), ("batch-size", "dropout-rates", "input-statistics")])
def test_real_images_come_back_when_a_row_holds_them_alone(rate, knows):
    observation, truth, world = watched(
        data={"name": "mnist5k", "train": 400, "test": 200},
        model={**RELU_MLP, "dropout": rate},
        federation={"batch_size": 8},
        threat={"server": "malicious"},
        attacks=[{"name": NAME}],
        knows=knows,
    )
    inputs = truth.batches[0].inputs
    with torch.no_grad():
        active = world.models.new()[1](inputs.flatten(1)) > 0  # type: ignore[index, operator]
    if rate:
        active &= truth.masks[0][0].bool()
    single = active[:, active.sum(0) == 1].any(1)
    guess = answer(attack_named(NAME), observation)
    exactly = [psnr > 90 for psnr in psnr_of(guess, truth, world.data.dataset.spec)]
    assert int(single.sum()) >= 6
    assert exactly == single.tolist()
    if knows and not rate and all(exactly):
        order = torch.cdist(inputs.flatten(1), guess.inputs.flatten(1)).argmin(1)
        assert torch.equal(guess.labels[order], truth.batches[0].labels)


def test_only_the_first_layer_changes():
    from fedsim.scenario import world as worlds

    world = worlds.build(scenario(model=RELU_MLP, threat={"server": "malicious"}, attacks=[{"name": NAME}]))
    honest = worlds.build(scenario(model=RELU_MLP)).models.first_weights
    assert world.models.first_weights.keys() == honest.keys()
    differing = {name for name, tensor in world.models.first_weights.items() if not torch.equal(tensor, honest[name])}
    assert differing == world.models.crafted_changes.tensors.keys() == {"1.weight", "1.bias"}
    assert not world.models.crafted_changes.added_names


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(8, 4)), "no linear layer sees the flattened input"),
        (nn.Sequential(nn.Flatten(), nn.Dropout(0.5), *dense()[1:]), "no linear layer sees"),  # type: ignore[index]
        (dense(bias=False), "its first layer '1' has no bias .* bias = true"),
        (dense(activation=nn.GELU), "no ReLU follows .* activation = 'relu'"),
        (dense(activation=nn.LeakyReLU), "no ReLU follows"),
        (dense(activation=nn.Sigmoid), "no ReLU follows"),
    ],
)
def test_craft_refuses_models_without_a_place_for_it(model, reason):
    with pytest.raises(NotApplicable, match=reason):
        crafted(attack_named(NAME), model)


def test_refuses_with_the_reason():
    attack = attack_named(NAME)
    observation, _ = observed(crafted(attack, dense()), 2)
    honest = replace(observation, threat=ThreatModel(knows=observation.threat.knows))
    for changed, reason in (
        (honest, "needs a malicious server"),
        (replace(observation, local_steps=3), "3 local steps"),
    ):
        with pytest.raises(NotApplicable, match=reason):
            answer(attack, changed)
    tables = {"model": RELU_MLP, "attacks": [{"name": NAME}]}
    for shares, reason in (
        (("4.*",), "no linear layer"),
        (("1.weight",), "does not see the bias gradient of layer '1'"),
    ):
        hidden, _, _ = watched(**tables, threat={"server": "malicious", "visible_parameters": shares})
        with pytest.raises(NotApplicable, match=reason):
            answer(attack, hidden)
