"""Co-teaching against a loop that follows the reference step by step, and in a real client."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.components.core.feature_prefix import Prefix, prefixes
from fedsim.components.loss.co_teaching import CoTeaching, NetworkPair, count_kept, small_losses
from fedsim.core import registry, seeding
from fedsim.core.errors import ScenarioError
from fedsim.core.hooks import PublicFederation
from fedsim.core.nets.masks import dropout_sites, record_masks
from fedsim.core.types import Batch
from fedsim.federation.stepping import train_rounds
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds

Build = Callable[..., Scenario]
WIDTH, CLASSES, SHORT = 8, 3, 4
METHOD = registry.get("component", "co-teaching")


def component(**settings: Any) -> CoTeaching:
    return METHOD.make(METHOD.config.model_validate(settings))


def network(*, normalised: bool = False) -> nn.Module:
    with seeding.isolate_randomness(3):
        middle = [nn.BatchNorm1d(WIDTH)] if normalised else []
        layers = [nn.Linear(5, WIDTH), *middle, nn.Tanh(), Prefix(4.0, 0.0, SHORT), nn.Linear(WIDTH, CLASSES)]
        return nn.Sequential(*layers).double()


def pair(own: CoTeaching, *, normalised: bool = False) -> NetworkPair:
    model = own.prepare(network(normalised=normalised), torch.Generator().manual_seed(1))
    assert isinstance(model, NetworkPair)
    return model


def data(examples: int) -> Batch:
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(examples, 5, generator=generator, dtype=torch.float64)
    return Batch(inputs, torch.randint(CLASSES, (examples,), generator=generator))


def gradients(
    own: CoTeaching, model: NetworkPair, batch: Batch, round_: int = 1, seed: int = 0
) -> tuple[Tensor, Tensor, int]:
    """The gradient of either network, and the k that both were cut at."""
    with record_masks(model, torch.Generator().manual_seed(seed)) as recording:
        loss = own.objective(model(batch.inputs), batch.labels, round_)
    parts = torch.autograd.grad(loss, list(model.parameters()))
    half = len(parts) // 2
    (mask,) = recording.masks
    first, second = (torch.cat([g.flatten() for g in own]) for own in (parts[:half], parts[half:]))
    return first, second, int(mask[0].sum())


def reference(model: NetworkPair, batch: Batch, rate: float, length: int, *, same: bool) -> tuple[Tensor, Tensor]:
    """One step as the paper's program takes it: score in evaluation mode, exchange, train both networks."""

    def logits(one: nn.Module, inputs: Tensor, k: int) -> Tensor:
        features = torch.tanh(one[0](inputs))  # type: ignore[index]
        return one[3](features * (torch.arange(WIDTH) < k))  # type: ignore[index]

    middle = len(batch) // 2
    everything = list(range(len(batch)))
    one, two = (everything, everything) if same else (everything[:middle], everything[middle:])
    chosen = []
    for scorer, part in ((model.first, one), (model.second, two)):
        losses = F.cross_entropy(logits(scorer, batch.inputs[part], SHORT), batch.labels[part], reduction="none")
        order = sorted(range(len(part)), key=losses.tolist().__getitem__)
        chosen.append([part[index] for index in order[: int((1 - rate) * len(part) + 1e-9)]])
    found = []
    for learner, selection in ((model.first, chosen[1]), (model.second, chosen[0])):
        loss = F.cross_entropy(logits(learner, batch.inputs[selection], length), batch.labels[selection])
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(learner.parameters()))]))
    return found[0], found[1]


@pytest.mark.paper_step("co-teaching", "each network learns from the other's small losses")
@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize(("examples", "rate"), [(10, 0.2), (11, 0.4), (10, 0.0)])
def test_a_step_is_that_of_the_reference(examples: int, rate: float, same: bool) -> None:
    own, batch = component(forget_rate=rate, same_batch=same), data(examples)
    model = pair(own)
    first, second, length = gradients(own, model, batch)
    expected = reference(model, batch, rate, length, same=same)
    assert torch.allclose(first, expected[0], atol=1e-12)
    assert torch.allclose(second, expected[1], atol=1e-12)


@pytest.mark.parametrize("count", [1, 5, 10, 29, 100])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.2, 0.3, 0.9])
def test_exactly_the_smallest_losses_are_kept(count: int, rate: float) -> None:
    logits = torch.randn(count, CLASSES, generator=torch.Generator().manual_seed(count))
    labels = torch.arange(count) % CLASSES
    chosen = small_losses(logits, labels, rate)
    assert len(chosen) == count_kept(count, rate) == count - -(-round(rate * 10) * count // 10)
    losses = F.cross_entropy(logits, labels, reduction="none")
    left = torch.ones(count, dtype=torch.bool)
    left[chosen] = False
    assert len(set(chosen.tolist())) == len(chosen)
    if len(chosen) and left.any():
        assert float(losses[chosen].max()) <= float(losses[left].min())


@pytest.mark.paper_step("co-teaching", "first stage: two networks trained apart")
def test_in_the_first_stage_each_network_learns_from_all_examples() -> None:
    """Two plain cross-entropies on the whole batch; behind the stage it is co-teaching, whose ramp begins there."""
    staged, plain = component(separate=2, ramp=3), component(ramp=3)
    outputs = torch.randn(10, 4, CLASSES, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = torch.arange(10) % CLASSES
    apart = sum(-outputs[:, network].log_softmax(1)[torch.arange(10), labels].mean() for network in (0, 1))
    for round_ in (1, 2):
        torch.testing.assert_close(staged.objective(outputs, labels, round_), apart)
    for round_ in range(3, 8):
        expected = plain.objective(outputs, labels, round_ - 2)
        assert torch.equal(staged.objective(outputs, labels, round_), expected)
        assert staged.rate(round_) == plain.rate(round_ - 2)


def test_scoring_needs_no_gradient_and_is_in_evaluation_mode_at_the_fixed_prefix() -> None:
    own, batch = component(), data(6)
    model = pair(own)
    with record_masks(model, torch.Generator().manual_seed(0)):
        outputs = model(batch.inputs)
    assert outputs.shape == (6, 4, CLASSES)
    assert all(module.training for module in model.modules())
    with record_masks(model, torch.Generator().manual_seed(5)):
        others = model(batch.inputs)
    assert torch.equal(outputs[:, 2:], others[:, 2:])
    assert torch.equal(outputs[:, 2], model.first.eval()(batch.inputs))
    scores = torch.autograd.grad(outputs[:, 2:].sum(), list(model.parameters()), materialize_grads=True)
    assert not any(g.any() for g in scores)


def test_both_networks_are_cut_alike_and_the_answer_is_the_mean_of_both() -> None:
    own, batch = component(), data(4)
    model = pair(own)
    assert [site.name for site in dropout_sites(model, (5,), 4)] == ["first.2"]
    lengths = set()
    for seed in range(8):
        first, second, length = gradients(own, model, batch, seed=seed)
        for gradient in (first, second):
            rows = gradient[: 5 * WIDTH].view(WIDTH, 5).any(1)
            assert rows.tolist() == [index < length for index in range(WIDTH)]
        lengths.add(length)
    assert len(lengths) > 1
    model.eval()
    answers = model(batch.inputs)
    assert torch.allclose(answers, (model.first(batch.inputs) + model.second(batch.inputs)) / 2)
    assert own.objective(answers, batch.labels, 1) == F.cross_entropy(answers, batch.labels)


def test_the_networks_start_differently_under_the_same_law() -> None:
    model = pair(component())
    for (name, ours), theirs in zip(model.first.named_parameters(), model.second.parameters(), strict=True):
        assert not torch.equal(ours, theirs), name
        assert torch.equal(ours.flatten().sort().values, theirs.flatten().sort().values)


@pytest.mark.paper_step("co-teaching", "forget rate rises over the first rounds")
@pytest.mark.parametrize("ramp", [0, 1, 5])
def test_the_forget_rate_ramps_up_in_even_steps(ramp: int) -> None:
    own = component(forget_rate=0.3, ramp=ramp)
    expected = np.full(8, 0.3)
    expected[:ramp] = np.linspace(0.0, 0.3, ramp)
    assert [own.rate(epoch + 1) for epoch in range(8)] == pytest.approx(expected.tolist())


@pytest.mark.paper_step("co-teaching", "batch norm trained in the first stage and frozen in the second")
def test_batch_normalisation_trains_in_the_first_stage_and_is_constant_in_the_second() -> None:
    own, batch = component(separate=2), data(10)
    model = pair(own, normalised=True)
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm1d)]
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for round_ in range(1, 5):
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        optimizer.zero_grad()
        own.objective(model.train()(batch.inputs), batch.labels, round_).backward()
        optimizer.step()
        own.after_round(model, round_, batch)
        stayed = {name for name, tensor in model.state_dict().items() if torch.equal(before[name], tensor)}
        inside = {name for name in before if name.rpartition(".")[0] in norms}
        assert stayed & inside == (inside if round_ > 2 else set())
        assert not {name for name in stayed - inside if name.endswith("weight")}
    assert all(weights.requires_grad for weights in model.parameters())


def test_the_stage_travels_with_the_weights(scenario: Build) -> None:
    components = [{"name": "co-teaching", "separate": 1}]
    model = {"name": "tests.scenario.own_modules:normed"}
    world = worlds.build(scenario(components=components, federation={"batch_size": 8, "clients": 2}, model=model))
    first, second, third = train_rounds(world, 2)
    assert [float(weights["is_frozen"]) for weights in (first, second, third)] == [0.0, 1.0, 1.0]
    statistics = [name for name in first if name.endswith(("running_mean", "running_var"))]
    assert statistics
    assert not any(torch.equal(first[name], second[name]) for name in statistics)
    assert all(torch.equal(second[name], third[name]) for name in statistics)


@pytest.mark.paper_step("co-teaching", "lower learning rate in the second stage")
def test_the_second_stage_has_its_own_learning_rate() -> None:
    batch = data(10)
    plain, slow = component(separate=1, forget_rate=0.2), component(separate=1, forget_rate=0.2, second_rate=0.01)
    for round_, factor in ((1, 1.0), (2, 0.01)):
        first, second, _ = gradients(plain, pair(plain), batch, round_)
        slow_first, slow_second, _ = gradients(slow, pair(slow), batch, round_)
        assert torch.allclose(slow_first, factor * first, rtol=1e-12)
        assert torch.allclose(slow_second, factor * second, rtol=1e-12)


@pytest.mark.parametrize(
    ("settings", "tables", "told"),
    [
        ({}, {"federation": {"batch_size": 1}}, "a batch holds 1. Set same_batch = true"),
        ({"forget_rate": 0.8}, {"federation": {"batch_size": 8}}, "forget_rate 0.8 leaves none of 4 examples"),
        (
            {},
            {"components": [{"name": "co-teaching"}, {"name": "nested-dropout"}]},
            "components that change the model must come before it",
        ),
    ],
)
def test_what_does_not_fit_ends_in_one_sentence(
    settings: dict[str, Any], tables: dict[str, Any], told: str, scenario: Build
) -> None:
    raw = {"components": [{"name": "co-teaching", **settings}], "federation": {"batch_size": 8}, **tables}
    with pytest.raises(ScenarioError, match=told):
        worlds.build(scenario(**raw)).check()


def test_statistics_that_mix_the_halves_and_several_answers_are_refused() -> None:
    federation = object.__new__(PublicFederation)
    for name, value in (("shape", (5,)), ("batch_size", 8), ("classes", CLASSES)):
        object.__setattr__(federation, name, value)
    own = component(freeze_batch_norm=False)
    model = own.prepare(network(normalised=True).float(), torch.Generator())
    assert own.refuses(federation, model) == (
        "'first.1' would mix the two halves of the batch. Set freeze_batch_norm = true"
    )
    classic = component(freeze_batch_norm=False, same_batch=True)
    assert classic.refuses(federation, model) is None
    several = nn.Sequential(nn.Linear(5, 6), nn.Unflatten(1, (2, 3)))
    reason = own.refuses(federation, own.prepare(several, torch.Generator()))
    expected = "each network must return an answer per example, (examples, 3 classes)"
    assert reason == f"{expected}, but a network returns (2, 2, 3)"


@pytest.mark.paper_step("co-teaching", "k of the highest validation accuracy of the mean logits")
@torch.no_grad()
def test_k_is_chosen_by_the_mean_of_both_networks_and_scores_are_cut_there() -> None:
    layer = registry.get("component", "nested-dropout")
    nested = layer.make(layer.config.model_validate({"eta": 4.0, "validation": 9}))
    with seeding.isolate_randomness(3):
        parts = [nn.Linear(5, WIDTH), nn.Tanh(), nn.Dropout(0.5), nn.Linear(WIDTH, CLASSES)]
        single = nested.prepare(nn.Sequential(*parts).double(), torch.Generator())
    model = component().prepare(single, torch.Generator().manual_seed(1)).eval()
    assert isinstance(model, NetworkPair)
    batch = data(200)

    def mean_logits(k: int, networks: tuple[Any, ...]) -> Tensor:
        cut = torch.arange(WIDTH) < k
        return torch.stack([own[3](torch.tanh(own[0](batch.inputs)) * cut) for own in networks]).mean(0)

    def best(networks: tuple[Any, ...]) -> int:
        right = [int((mean_logits(k, networks).argmax(1) == batch.labels).sum()) for k in range(1, WIDTH + 1)]
        return 1 + right.index(max(right))

    nested.after_round(model, 1, batch)
    both = best((model.first, model.second))
    assert [int(own.chosen) for own in prefixes(model) if own.chosen is not None] == [both, both]
    assert {best((model.first,)), best((model.second,))} != {both}
    assert torch.allclose(model(batch.inputs), mean_logits(both, (model.first, model.second)))
    scores = model.train()(batch.inputs)[:, 2:]
    for number, network in enumerate((model.first, model.second)):
        assert torch.allclose(scores[:, number], mean_logits(both, (network,)))


def test_each_network_learns_from_one_half_alone() -> None:
    own, batch = component(), data(10)
    model = pair(own)
    first, second, _ = gradients(own, model, batch)
    inputs, labels = batch.inputs.clone(), batch.labels.clone()
    inputs[:5] += torch.randn(5, 5, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    labels[:5] = (labels[:5] + 1) % CLASSES
    again, other, _ = gradients(own, model, Batch(inputs, labels))
    assert torch.equal(first, again)
    assert not torch.allclose(second, other)
