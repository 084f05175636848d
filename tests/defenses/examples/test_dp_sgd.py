"""DP-SGD against a loop over examples: sensitivity, what it refuses, and a federation whose record states epsilon."""

import math
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.core import registry
from fedsim.core.errors import FedsimError, ScenarioError
from fedsim.core.hooks import Defense, HookContext, LocalStep
from fedsim.core.nets.losses import compute_example_losses
from fedsim.core.nets.masks import keep_masks
from fedsim.core.types import Batch, Config, MethodDescription, Tensors, Update
from fedsim.federation.client import local_training
from fedsim.privacy.per_example import Mode, cheapest, sum_clipped, why_inseparable
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from tests.federating import scenario

Build = Callable[..., Scenario]
MODES: list[Mode] = ["hooks", "functorch", "ghost"]
POISSON = {"sampling": "poisson", "batch_size": 16, "clients": 4}


class Scale(nn.Module):
    """One scalar parameter, which a clipping of tensors by their rows would miss."""

    def __init__(self, value: float = 2.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(value))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Centred(nn.Module):
    """Mixes the examples of a batch without parameters or buffers: no validator sees it."""

    def __init__(self, share: float = 1.0) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        return x - self.share * x.mean(0)


class Borrowing(nn.Module):
    """Uses a parameter of another module, which the hooks of that module cannot see."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.own(x) + F.linear(x, self.head.weight.new_ones(6, 6)) * self.own.weight.sum())


class Inside(nn.Module):
    """Drops out in a module that has a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(6))
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(x + self.shift))


class Tokens(nn.Module):
    """A dense layer that several tokens of an example share."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(2, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(x.view(len(x), 3, 2)).relu().mean(1))


def dense() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 7), nn.Tanh(), nn.Dropout(0.3), nn.Linear(7, 3), Scale())


def convolutional() -> nn.Module:
    layers = (nn.Conv2d(1, 4, 2), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    return nn.Sequential(nn.Unflatten(1, (1, 2, 3)), *layers)


MODELS: dict[str, Callable[[], nn.Module]] = {"dense": dense, "convolutional": convolutional, "tokens": Tokens}


def batch(examples: int = 5, seed: int = 1) -> Batch:
    numbers = torch.Generator().manual_seed(seed)
    return Batch(3 * torch.randn(examples, 6, generator=numbers), torch.arange(examples) % 3)


def built(name: str) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    torch.manual_seed(0)
    model = MODELS[name]()
    return model, dict(model.named_parameters())


def losses_of(model: nn.Module, examples: Batch) -> Callable[[], Tensor]:
    return lambda: F.cross_entropy(model(examples.inputs), examples.labels, reduction="none")


def gradients_in_a_loop(model: nn.Module, examples: Batch) -> list[Tensors]:
    """Each example's gradient, under the masks that a batch of all draws."""
    with keep_masks(torch.Generator().manual_seed(2)):
        each = losses_of(model, examples)()
    names = dict(model.named_parameters())
    found = [torch.autograd.grad(loss, list(names.values()), retain_graph=True) for loss in each]
    return [dict(zip(names, own, strict=True)) for own in found]


def norm(tensors: Tensors) -> float:
    return float(torch.stack([t.double().norm() for t in tensors.values()]).norm())


def distance(first: Tensors, second: Tensors) -> float:
    return norm({name: first[name] - second[name] for name in first})


def private(**settings: Any) -> Defense[Any]:
    method = registry.get("defense", "dp-sgd")
    return method.make(method.config.model_validate(settings))


def stepped(
    defense: Defense[Any], model: nn.Module, examples: Batch, expected: float = 4.0, seed: int = 0
) -> tuple[float, Tensors]:
    local = LocalStep(model, dict(model.named_parameters()), examples, expected)
    return defense.on_examples(
        losses_of(model, examples), HookContext(1, 0, 0, torch.Generator().manual_seed(seed), local=local)
    )


@pytest.mark.paper_step("dp-sgd", "gradient of each example, clipped over all parameters")
@pytest.mark.parametrize("clip", [1e9, 0.5])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", MODELS)
def test_clipped_gradients_are_those_of_a_loop_over_the_examples(name, mode, clip) -> None:
    model, parameters = built(name)
    alone = gradients_in_a_loop(model, batch())
    norms = [norm(own) for own in alone]
    assert min(norms) < 1e9
    assert max(norms) > 0.5
    expected = {
        key: torch.stack([own[key] * min(1.0, clip / n) for own, n in zip(alone, norms, strict=True)]).sum(0)
        for key in parameters
    }
    with keep_masks(torch.Generator().manual_seed(2)):
        each, total = sum_clipped(model, parameters, losses_of(model, batch()), clip, mode)
    assert each.shape == (5,)
    assert total.keys() == parameters.keys()
    assert distance(total, expected) <= 1e-5 * norm(expected)


@pytest.mark.parametrize("mode", MODES)
def test_one_examples_gradient_is_clipped_jointly_and_scalars_with_it(mode) -> None:
    model, parameters = built("dense")
    cast("Scale", model[-1]).scale.data.fill_(100.0)
    for seed in range(5):
        one = batch(1, seed)
        _, total = sum_clipped(model, parameters, losses_of(model, one), 0.25, mode)
        assert norm(total) <= 0.25 * (1 + 1e-6)
        assert "5.scale" in total
    _, unclipped = sum_clipped(model, parameters, losses_of(model, batch(1)), 1e9, mode)
    assert norm(unclipped) > 1.0


@pytest.mark.parametrize("mode", MODES)
def test_zero_gradients_stay_zero(mode) -> None:
    model, parameters = built("dense")
    _, total = sum_clipped(model, parameters, lambda: losses_of(model, batch())() * 0.0, 1.0, mode)
    assert all(bool((t == 0).all()) for t in total.values())


@pytest.mark.parametrize("mode", MODES)
def test_nothing_stays_on_a_borrowed_model_even_after_an_error(mode) -> None:
    model, parameters = built("convolutional")

    def traces() -> list[Any]:
        parts = [*model.modules(), *model.parameters()]
        hooks = [len(m._forward_hooks) + len(m._backward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
        return [set(vars(part)) for part in parts] + hooks + [p.grad for p in model.parameters()]

    before = traces()
    for _ in range(2):
        sum_clipped(model, parameters, losses_of(model, batch()), 1.0, mode)
    assert traces() == before

    def broken() -> Tensor:
        losses_of(model, batch())()
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        sum_clipped(model, parameters, broken, 1.0, mode)
    assert traces() == before


@pytest.mark.parametrize("value", [torch.inf, torch.nan, 1e30])
@pytest.mark.parametrize("mode", MODES)
def test_an_example_without_a_finite_gradient_counts_as_zero(mode, value) -> None:
    model, parameters = built("dense")
    rest = batch(5)
    spoilt = Batch(rest.inputs.clone(), rest.labels)
    spoilt.inputs[2] = value
    keep = torch.tensor([0, 1, 3, 4])
    cast("nn.Dropout", model[3]).p = 0.0
    _, with_it = sum_clipped(model, parameters, losses_of(model, spoilt), 1.0, mode)
    others = Batch(rest.inputs[keep], rest.labels[keep])
    _, without = sum_clipped(model, parameters, losses_of(model, others), 1.0, mode)
    assert norm(without) > 0.1
    # 1e30 has a finite gradient where a layer normalises it away: it moves the sum by the clipping norm at most.
    assert distance(with_it, without) <= (1e-6 if value != 1e30 else 1.0 + 1e-6)


class Branching(nn.Module):
    """Has other weights for a batch with a large input, or for large inputs, and uses these without their layer."""

    def __init__(self, *, is_called: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.usual, self.large, self.is_called = nn.Linear(6, 3), nn.Linear(6, 3), is_called

    def forward(self, x: Tensor) -> Tensor:
        large = x.abs().amax(dim=1, keepdim=True) > 50
        if self.is_called:
            return self.large(x) if bool(large.any()) else self.usual(x)
        return torch.where(large, nn.functional.linear(x, self.large.weight, self.large.bias), self.usual(x))


@pytest.mark.parametrize("is_called", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_a_model_with_other_weights_for_large_inputs_is_refused(mode, is_called) -> None:
    assert "clipped gradients are off" in (why(Branching(is_called=is_called), mode=mode) or "")


@pytest.mark.parametrize("mode", MODES)
def test_weights_that_are_used_without_their_layer_escape_no_clipping(mode) -> None:
    model = Branching(is_called=False)
    parameters = dict(model.named_parameters())
    large = Batch(batch(1).inputs * 1e3, torch.tensor([1]))
    _, total = sum_clipped(model, parameters, losses_of(model, large), 0.5, mode)
    assert norm(total) <= 0.5 * (1 + 1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_a_layer_that_is_called_for_some_examples_is_an_error_that_says_so(mode) -> None:
    layer = nn.Linear(6, 3)
    some = batch(4)
    with pytest.raises(FedsimError, match="'Linear' was called with 3 rows for 4 examples"):
        sum_clipped(
            layer,
            dict(layer.named_parameters()),
            lambda: compute_example_losses(layer(some.inputs[:3])[[0, 1, 2, 2]], some.labels),
            1.0,
            mode,
        )


@pytest.mark.parametrize("mode", MODES)
def test_one_record_moves_the_gradient_by_the_clipping_norm_over_the_expected_batch_at_most(mode) -> None:
    model, _ = built("dense")
    cast("nn.Dropout", model[3]).p = 0.0
    defense = private(clip=0.5, noise_multiplier=0.0, mode=mode)
    whole = batch(8)
    _, full = stepped(defense, model, whole)
    moved = []
    for left_out in range(8):
        rest = torch.tensor([i for i in range(8) if i != left_out])
        _, without = stepped(defense, model, Batch(whole.inputs[rest], whole.labels[rest]))
        moved.append(distance(full, without))
    assert max(moved) <= 0.5 / 4.0 * (1 + 1e-4)
    assert max(moved) > 0.49 / 4.0


@pytest.mark.paper_step("dp-sgd", "Gaussian noise on the sum, divided by the expected batch")
def test_noise_has_the_stated_scale_and_is_divided_by_the_expected_batch_also_when_the_batch_is_empty() -> None:
    model = nn.Linear(6, 20_000)
    empty = Batch(torch.empty(0, 6), torch.empty(0, dtype=torch.long))
    loss, gradient = stepped(private(clip=0.5, noise_multiplier=3.0), model, empty, expected=8.0)
    assert math.isnan(loss)
    values = torch.cat([t.flatten() for t in gradient.values()])
    assert float(values.std()) == pytest.approx(3.0 * 0.5 / 8.0, rel=0.01)
    assert float(values.mean()) == pytest.approx(0.0, abs=1e-3)
    loss, _ = stepped(private(noise_multiplier=1.0), model, batch(3))
    assert math.isfinite(loss)


def test_noise_differs_by_client_round_and_step_and_repeats_for_the_same() -> None:
    world = worlds.build(scenario(federation=POISSON, defenses=[{"name": "dp-sgd"}]))

    def sent(round_: int, client: int) -> Tensor:
        update, _ = local_training(world, world.models.first_weights, round_, client)
        return world.models.layout.flat(update.tensors, update.buffers)

    assert torch.equal(sent(1, 0), sent(1, 0))
    different = [sent(1, 0), sent(1, 1), sent(2, 0)]
    assert all(torch.dist(a, b) > 1e-3 for i, a in enumerate(different) for b in different[:i])


def test_the_upload_states_expected_examples_no_loss_and_unchanged_buffers() -> None:
    federation = {**POISSON, "algorithm": "fedavg", "local_steps": 3}
    world = worlds.build(scenario(federation=federation, defenses=[{"name": "dp-sgd"}]))
    for client in range(4):
        update, truth = local_training(world, world.models.first_weights, 1, client)
        assert (update.examples, update.loss) == (48, 0.0)
        assert truth.raw.loss > 0
    sent = private().on_upload(
        Update("delta", {}, {"mean": torch.ones(2)}, 3, 1.0), HookContext(1, 0, 0, torch.Generator())
    )
    assert bool((sent.buffers["mean"] == 0).all())


def test_dense_layers_are_clipped_by_their_norms_and_others_by_stored_gradients() -> None:
    assert cheapest(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))) == "ghost"
    assert cheapest(Tokens()) == "ghost"
    assert cheapest(convolutional()) == "hooks"
    assert cheapest(dense()) == "ghost"
    assert cheapest(nn.Sequential(nn.Embedding(3, 3), nn.RMSNorm(3), nn.Linear(3, 3))) == "ghost"
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    assert cheapest(tied) == "hooks"


def why(model: nn.Module, shape: tuple[int, ...] = (6,), mode: Mode = "hooks") -> str | None:
    inputs = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    return why_inseparable(model.train(), Batch(inputs, torch.arange(4) % 3), mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", MODELS)
def test_models_whose_examples_can_be_told_apart_pass_in_every_mode(name, mode) -> None:
    assert why(built(name)[0], mode=mode) is None


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm1d(6),
        nn.BatchNorm1d(6, affine=False),
        nn.BatchNorm1d(6, affine=False, track_running_stats=False),
        nn.BatchNorm1d(6).requires_grad_(requires_grad=False),
        Centred(),
        Centred(0.001),
    ],
    ids=["trained", "without parameters", "without buffers", "frozen", "custom", "hardly"],
)
@pytest.mark.parametrize("mode", MODES)
def test_every_layer_that_mixes_a_batch_is_refused_and_the_model_left_as_it_was(layer, mode) -> None:
    model = nn.Sequential(nn.Linear(6, 6), layer, nn.Linear(6, 3))
    before = {name: t.clone() for name, t in model.state_dict().items()}
    assert why(model, mode=mode) is not None
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_running_statistics_of_single_examples_are_refused_too() -> None:
    layers = (nn.Conv1d(1, 4, 3), nn.InstanceNorm1d(4, track_running_stats=True), nn.Flatten(), nn.Linear(16, 3))
    model = nn.Sequential(nn.Unflatten(1, (1, 6)), *layers)
    assert "buffer '2.running_mean'" in (why(model) or "")


def test_gradients_and_masks_that_the_hooks_miss_are_refused() -> None:
    assert why(Borrowing()) is not None
    assert "cannot be differentiated for each example" in (why(Inside()) or "")


@pytest.mark.parametrize(
    ("tables", "reason"),
    [
        ({"federation": {"batch_size": 16}}, "federation.sampling = 'poisson'"),
        ({"federation": POISSON, "components": [{"name": "fedprox"}]}, "loss term FedProx"),
        ({"federation": POISSON, "delta": 0.01}, "expected below 1/"),
    ],
)
def test_what_the_accountant_does_not_cover_is_refused_before_the_first_round(tables, reason) -> None:
    delta = tables.get("delta", 1e-5)
    rest = {key: value for key, value in tables.items() if key != "delta"}
    world = worlds.build(scenario(**rest, defenses=[{"name": "dp-sgd", "delta": delta}]))
    with pytest.raises(ScenarioError, match=reason):
        world.check()


class ReadingConfig(Config):
    """No settings."""


class Reading(Defense[ReadingConfig]):
    """Changes the batch that the clipping would bound."""

    def on_batch(self, batch: Batch, here: HookContext) -> Batch:
        return batch

    def adaptive_view(self) -> MethodDescription:
        return MethodDescription("reading")


def test_defenses_that_read_the_batch_are_refused_beside_it(counting: Any) -> None:
    registry.defense("reading", summary="reads the batch")(Reading)
    world = worlds.build(scenario(federation=POISSON, defenses=[{"name": "dp-sgd"}, {"name": "reading"}]))
    with pytest.raises(ScenarioError, match="Reading works on whole batches"):
        world.check()
    worlds.build(scenario(federation=POISSON, defenses=[{"name": "dp-sgd"}, {"name": "gradient-noise"}])).check()
