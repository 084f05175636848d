"""The key-value bottleneck: what is trained, and what it leaves alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.components.bottleneck.key_value_bottleneck import (
    bottleneck_of,
    cells_of,
)
from fedsim.components.core.key_value import KeyValueModel
from fedsim.core.errors import NotApplicable, ScenarioError
from fedsim.federation.client import local_training
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from tests.components.bottleneck.keys import component, drawn, network, prepared

Build = Callable[..., Scenario]
MLP = {"name": "mlp", "width": 16, "depth": 1, "dropout": 0.25}
SMALL = {"name": "key-value-bottleneck", "codebooks": 3, "pairs": 7, "key_width": 4, "passes": 2}


def loss_of(model: KeyValueModel, x: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(model(x), labels)


def gradient(model: KeyValueModel, x: Tensor, labels: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(loss_of(model, x, labels), [model.table.entries.weight])
    return found.unflatten(0, (3, -1))


def step(model: KeyValueModel, x: Tensor, labels: Tensor, rate: float = 0.3) -> None:
    model.table.entries.weight.data -= rate * gradient(model, x, labels).flatten(0, 1)


@pytest.mark.paper_step("key-value-bottleneck", "random projections into heads")
def test_columns_of_the_projections_have_length_one_and_heads_are_products() -> None:
    lookup = prepared().lookup
    assert lookup.projections.shape == (6, 3, 4)
    assert torch.allclose(lookup.projections.norm(dim=0), torch.ones(3, 4).double(), atol=1e-6)
    features = drawn(2, 5, 6)
    heads = lookup.heads(features).unflatten(1, (2, 5))
    for c in range(3):
        assert torch.allclose(heads[c], features @ lookup.projections[:, c], atol=1e-12)


def test_chunks_are_slices_of_the_features() -> None:
    lookup = prepared(projection="chunk").lookup
    features = drawn(2, 1, 6)
    assert torch.equal(lookup.heads(features), torch.stack(features[:, 0].split(2, -1)))


@pytest.mark.paper_step("key-value-bottleneck", "only the values that were read learn")
@pytest.mark.parametrize("active", [1, 2])
def test_a_step_changes_exactly_the_values_that_were_read(active: int) -> None:
    model, x = prepared(active=active), drawn(5, 5)
    before = model.table.values.clone()
    read = cells_of(model.read(x), 7)
    step(model, x, torch.tensor([0, 1, 2, 3, 0]))
    changed = (model.table.values != before).any(-1)
    assert torch.equal(changed, read)
    assert 0 < int(changed.sum()) <= 5 * 3 * active


def test_the_gradient_of_a_value_is_softmax_minus_target_over_its_readers() -> None:
    model, x, labels = prepared(values="normal"), drawn(20, 5), torch.arange(20) % 4
    found = gradient(model, x, labels)
    residual = (model(x).softmax(-1) - F.one_hot(labels, 4)).detach()
    expected = torch.zeros(3, 7, 4).double()
    for i, own in enumerate(model.read(x)):
        for c in range(3):
            expected[c, own[c, 0, 0]] += residual[i] / (3 * 20)
    assert torch.allclose(found, expected, atol=1e-12)


@pytest.mark.paper_step("key-value-bottleneck", "keys from moving averages over unlabelled features")
def test_first_keys_lie_among_public_heads_and_every_key_is_read() -> None:
    made = component(pairs=16, passes=10)
    model = made.prepare(network(), torch.Generator().manual_seed(0)).train()
    generator = torch.Generator().manual_seed(1)
    public = torch.randn(600, 5, generator=generator)
    bottleneck = bottleneck_of(model)
    before = bottleneck.lookup.keys.clone()
    with torch.no_grad():
        heads = bottleneck.lookup.heads(bottleneck.features(public))
    made.initialise(model, public, generator)
    keys = bottleneck.lookup.keys

    def error(own: Tensor) -> float:
        return float(torch.cdist(heads, own).min(-1).values.square().mean())

    assert error(keys) < 0.2 * error(before)
    assert bool(cells_of(bottleneck.read(public), 16).all())
    with pytest.raises(NotApplicable, match="keys need public examples"):
        made.initialise(model, public[:0], generator)
    component(keys="normal", passes=0).initialise(model, public[:0], generator)


def test_only_values_are_trained_and_all_else_stays_bit_by_bit(scenario: Build) -> None:
    settings = {"algorithm": "fedavg", "clients": 2, "local_steps": 4, "batch_size": 8}
    world = worlds.build(scenario(model=MLP, components=[SMALL], federation=settings))
    world.check()
    assert list(world.models.parameters) == ["table.entries.weight"]
    before = world.models.first_weights
    update, _ = local_training(world, before, 1, 0)
    assert list(update.tensors) == ["table.entries.weight"]
    assert not update.buffers
    after = world.models.load_weights(before).state_dict()
    local_training(world, before, 1, 0)
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name]) is (name != "table.entries.weight")
    assert not world.models.sites  # a frozen encoder does not drop out


def test_the_encoder_stays_in_evaluation_and_gets_no_gradient() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 4))
    model = prepared(plain)
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    x = drawn(8, 5).requires_grad_()
    model.train()(x).sum().backward()
    assert model.training
    assert x.grad is None
    assert all(parameter.grad is None for parameter in model.encoder.parameters())
    assert statistics
    assert all(torch.equal(buffer, statistics[name]) for name, buffer in model.named_buffers())


def test_evaluation_finds_the_nearest_key_that_training_ever_read() -> None:
    model, x, unseen = prepared(pairs=40), drawn(6, 5), drawn(50, 5, seed=9)
    counts = torch.zeros(3, 40)
    for _ in range(3):
        for own in model.read(x):
            for c in range(3):
                counts[c, own[c, 0, 0]] += 1
        step(model, x, torch.arange(6) % 4)
    heads = model.lookup.heads(model.features(unseen))
    trained, evaluated = model.read(unseen)[:, :, 0, 0], model.eval().read(unseen)[:, :, 0, 0]
    has_changed = False
    for i in range(50):
        for c in range(3):
            distances = (heads[c, i] - model.lookup.keys[c]).square().sum(-1)
            assert int(trained[i, c]) == int(distances.argmin())
            assert int(evaluated[i, c]) == int(distances.masked_fill(counts[c] == 0, torch.inf).argmin())
            has_changed = has_changed or int(trained[i, c]) != int(evaluated[i, c])
    assert has_changed
    kept = prepared(pairs=40, values="normal").eval()
    assert torch.equal(kept.read(unseen), kept.train().read(unseen))


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"at": "12"}, r"no layer is called '12'\. Did you mean '2'\?"),
        ({"active": 8}, "active is 8, expected at most 7"),
        ({"projection": "chunk", "codebooks": 4}, "returns 6 features, not a multiple of the 4 codebooks"),
    ],
)
def test_what_does_not_fit_is_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(NotApplicable, match=why):
        prepared(**settings)


def test_a_model_that_does_not_end_there_is_refused_before_the_first_round(scenario: Build) -> None:
    world = worlds.build(scenario(model=MLP, components=[SMALL]))
    own = component()

    class Narrow(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[:, :3]

    reason = own.refuses(
        world.facts.federation, prepared(Narrow(nn.Flatten(), nn.Linear(64, 6), nn.Linear(6, 10))).float()
    )
    assert reason == "its keys read 6 features, but the encoder returns 3"
    reason = own.refuses(
        world.facts.federation, prepared(nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.Linear(6, 4))).float()
    )
    assert reason == "the model returns (2, 4), expected (examples, 10 classes)"
    image = nn.Sequential(nn.Unflatten(1, (1, 1, 1)), nn.Linear(8, 6), nn.Linear(6, 10))
    reason = own.refuses(world.facts.federation, prepared(image).float())
    assert reason is not None
    assert reason.startswith("its encoder returns shape (2, 1, 1, 1, 8, 6)")
    both = [{"name": "multi-sample-dropout", "samples": 2}, SMALL]
    world = worlds.build(scenario(model=MLP, components=both))
    with pytest.raises(ScenarioError, match="'multi-sample-dropout' does not fit"):  # a frozen encoder repeats nothing
        world.check()


def test_what_one_class_learns_leaves_another_that_reads_other_keys_alone() -> None:
    model = prepared(nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 4)), pairs=40)
    one = drawn(5) + 0.01 * drawn(6, 5)
    other = -8.0 * drawn(5) + 0.01 * drawn(6, 5, seed=2)
    assert not (cells_of(model.read(one), 40) & cells_of(model.read(other), 40)).any()
    for _ in range(5):
        step(model, one, torch.zeros(6, dtype=torch.long))
    before = model(one).detach().clone()
    assert before.any()
    for _ in range(50):
        step(model, other, torch.ones(6, dtype=torch.long))
    assert torch.equal(model(one), before)
