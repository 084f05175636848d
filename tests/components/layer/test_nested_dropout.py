"""Nested Dropout against masked passes one by one, and in a real client."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from fedsim.components.core.feature_prefix import Prefix, prefix_odds
from fedsim.components.layer.nested_dropout import NestedDropout
from fedsim.core import registry, seeding
from fedsim.core.errors import NotApplicable, ScenarioError
from fedsim.core.nets.losses import IGNORED
from fedsim.core.nets.masks import dropout_sites, inject_masks, prefix_mask, record_masks
from fedsim.core.types import Batch, Reconstruction
from fedsim.federation import apps, cohort
from fedsim.federation.client import local_training
from fedsim.federation.stepping import train_rounds
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from tests.federating import recorded

Build = Callable[..., Scenario]
WIDTH, CLASSES = 12, 3
METHOD = registry.get("component", "nested-dropout")


def component(**settings: Any) -> NestedDropout:
    return METHOD.make(METHOD.config.model_validate(settings))


def plain() -> nn.Module:
    with seeding.isolate_randomness(3):
        layers = [nn.Linear(5, WIDTH), nn.Tanh(), nn.Dropout(0.5), nn.Linear(WIDTH, CLASSES)]
        return nn.Sequential(*layers).double()


def nested(**settings: Any) -> nn.Module:
    return component(**settings).prepare(plain(), torch.Generator())


def data(examples: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(examples, 5, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(CLASSES, (examples,), generator=generator)


def two_layers(**settings: Any) -> nn.Module:
    with seeding.isolate_randomness(3):
        hidden = [nn.Linear(5, WIDTH), nn.Tanh(), nn.Dropout(0.5), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Dropout(0.5)]
        model = nn.Sequential(*hidden, nn.Linear(WIDTH, CLASSES)).double()
    return component(alternate_with="2", **settings).prepare(model, torch.Generator())


@pytest.mark.paper_step("nested-dropout", "length of the prefix from a Gaussian law")
def test_lengths_follow_the_odds() -> None:
    odds = torch.tensor(prefix_odds(WIDTH, 4.0), dtype=torch.float64)
    layer, generator, draws = Prefix(4.0, 0.0, None), torch.Generator().manual_seed(1), 100_000
    lengths = (1 + odds.multinomial(draws, replacement=True, generator=generator)).bincount(minlength=WIDTH + 1)[1:]
    few = 4000
    counts = torch.zeros(WIDTH)
    with record_masks(nn.Sequential(layer), generator) as recording:
        for _ in range(few):
            layer(torch.ones(1, WIDTH))
    for mask in recording.masks:
        counts[int(mask.sum()) - 1] += 1
    for seen, total in ((lengths, draws), (counts, few)):
        likely = odds * total >= 5
        expected = torch.cat([odds[likely], odds[~likely].sum()[None]]) * total
        joined = torch.cat([seen[likely], seen[~likely].sum()[None]])
        assert stats.chisquare(joined.numpy(), expected.numpy()).pvalue > 1e-3


@pytest.mark.paper_step("nested-dropout", "channels behind the prefix are zero")
def test_a_channel_gets_no_gradient_when_it_is_cut_and_else_as_often_as_its_odds_say() -> None:
    model, steps = nested(eta=4.0), 1500
    inputs, labels = data()
    trained = torch.zeros(WIDTH)
    with record_masks(model, torch.Generator().manual_seed(2)) as recording:
        for step in range(steps):
            model.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            length = int(recording.masks[step][0].sum())
            gradient = model.get_parameter("0.weight").grad
            head = model.get_parameter("3.weight").grad
            assert gradient is not None
            assert head is not None
            assert not gradient[length:].any()
            assert not head[:, length:].any()
            assert bool(gradient[:length].any(1).all())
            trained += gradient.any(1)
    odds = prefix_odds(WIDTH, 4.0)
    for channel in range(WIDTH):
        assert stats.binomtest(int(trained[channel]), steps, min(1.0, math.fsum(odds[channel:]))).pvalue > 1e-4


def test_a_fair_coin_says_which_of_two_layers_is_cut() -> None:
    model, (inputs, labels), steps = two_layers(eta=2.0), data(), 500
    cuts = {"2": 0, "5": 0}
    with record_masks(model, torch.Generator().manual_seed(4)) as recording:
        for step in range(steps):
            model.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            first, coin, second = recording.masks[3 * step : 3 * step + 3]
            heads = bool(coin[0, 1])
            assert torch.equal(coin, torch.tensor([1.0, float(heads)]).double().expand(4, 2))
            for place, mask, is_cut, weights in (("2", first, heads, "3"), ("5", second, not heads, "6")):
                gradient, length = model.get_parameter(f"{weights}.weight").grad, int(mask[0].sum())
                assert gradient is not None
                assert bool(gradient[:, :length].any(0).all())
                assert bool(gradient[:, length:].any()) is (not is_cut and length < WIDTH)
                cuts[place] += is_cut
    assert cuts["2"] + cuts["5"] == steps
    assert stats.binomtest(cuts["2"], steps).pvalue > 1e-3


def test_in_evaluation_the_last_of_two_layers_is_cut_and_the_first_is_not() -> None:
    model, (inputs, _) = two_layers(eta=2.0, kept=4).eval(), data()
    features = model[3:5](model[:2](inputs))  # type: ignore[index]
    assert torch.equal(model(inputs), model[6](features * (torch.arange(WIDTH) < 4)))  # type: ignore[index]
    untouched = two_layers(eta=0).train()
    assert torch.equal(untouched(inputs), untouched.eval()(inputs))


def test_layers_that_take_turns_are_trained_together_with_other_clients_and_refused_where_coins_would_differ(
    scenario: Build,
) -> None:
    own = {"name": "nested-dropout", "eta": 3.0, "alternate_with": "3", "per_sample": True}
    model = {"name": "mlp", "width": 16, "depth": 2, "bias": True}
    world = worlds.build(scenario(components=[own], model=model, federation={"batch_size": 4, "clients": 4}))
    world.check()
    cohort.check(world)
    pair = scenario(components=[own, {"name": "co-teaching"}], model=model, federation={"batch_size": 4})
    with pytest.raises(ScenarioError, match="each network would toss its own coin"):
        worlds.build(pair).check()


def test_all_channels_are_the_plain_network_and_nothing_is_rescaled() -> None:
    model, twin, (inputs, _) = nested(eta=4.0), plain(), data()
    (site,) = dropout_sites(model, (5,), 4)
    with inject_masks([site], (prefix_mask(WIDTH, site.shape, inputs),)):
        whole = model(inputs)
    assert torch.equal(whole, twin.eval()(inputs))
    assert torch.equal(model.eval()(inputs), twin(inputs))
    features = twin[:2](inputs)  # type: ignore[index]
    with inject_masks([site], (prefix_mask(5, site.shape, inputs),)):
        cut = model.train()(inputs)
    assert torch.allclose(cut, features[:, :5] @ twin[3].weight[:, :5].T + twin[3].bias, atol=1e-12)  # type: ignore[index]
    assert torch.equal(nested(eta=4.0, kept=5).eval()(inputs), cut)


def test_without_a_width_every_length_is_as_likely_and_with_none_nothing_is_cut(scenario: Build) -> None:
    assert prefix_odds(7, math.inf) == pytest.approx([1 / 7] * 7)
    own = scenario(components=[{"name": "nested-dropout", "eta": math.inf}])
    again = worlds.build(Scenario.model_validate_json(own.model_dump_json()))
    assert again.models.sites[-1].odds == pytest.approx([1 / 24] * 24)
    assert dropout_sites(nested(eta=0), (5,), 2) == ()


@pytest.mark.parametrize(
    ("model", "settings", "told"),
    [
        (nn.Sequential(nn.Linear(5, 3)), {}, "no dropout layer"),
        (plain(), {"at": "3"}, "no dropout layer is called '3'. Known: 2"),
        (plain(), {"alternate_with": "2"}, "alternate_with must name a layer in front of '2'"),
    ],
)
def test_a_model_without_a_place_for_it_is_refused(model: nn.Module, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(NotApplicable, match=told):
        component(**settings).prepare(model, torch.Generator())


def test_maps_and_more_channels_than_there_are_are_refused_before_training(scenario: Build) -> None:
    wide = scenario(components=[{"name": "nested-dropout", "kept": 25}])
    with pytest.raises(ScenarioError, match="kept is 25, but its layer has 24 channels"):
        worlds.build(wide).check()
    convolutional = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Dropout(0.5), nn.Flatten(), nn.Linear(72, 10))
    own = component()
    federation = worlds.build(scenario()).facts.federation
    reason = own.refuses(federation, own.prepare(convolutional, torch.Generator()))
    assert reason == "it cuts feature vectors, but its layer gets maps of shape (2, 6, 6)"


def test_the_length_that_an_attacker_read_is_compared_with_the_clients(scenario: Build) -> None:
    world = worlds.build(scenario(components=[{"name": "nested-dropout", "eta": 3.0}], model={"dropout": 0.0}))
    _, truth = local_training(world, world.models.first_weights, 1, 0)
    length = float(truth.masks[0][0][0].sum())
    guess = Reconstruction(truth.batches[0].inputs, truth.batches[0].labels, None, 0.0, 1, 1, (), "")
    (own,) = world.stack.components
    model = world.models.load_weights(world.models.first_weights)
    assert own.scores(model, truth, guess) == {}
    changed = replace(guess, extras={"nested-dropout.6": torch.tensor(length + 2)})
    assert own.scores(model, truth, changed) == {"distance between the k at '6' and that found": 2.0}


def by_hand(model: nn.Module, length: int, inputs: Tensor) -> Tensor:
    """Logits of the plain network whose features are cut at a length."""
    features = torch.tanh(model[0](inputs))  # type: ignore[index]
    return model[3](features * (torch.arange(WIDTH) < length))  # type: ignore[index]


@pytest.mark.paper_step("nested-dropout", "k of the highest validation accuracy after each round")
@torch.no_grad()
def test_the_server_chooses_the_shortest_prefix_of_the_best_accuracy() -> None:
    """Labels are those of the prefix of 5 channels, but for a few."""
    own, model, twin = component(eta=4.0, validation=9), nested(eta=4.0, validation=9).eval(), plain().eval()
    inputs, noise = data(300)
    labels = by_hand(twin, 5, inputs).argmax(1)
    labels[:30] = noise[:30]
    assert torch.equal(model(inputs), twin(inputs)), "before the first choice nothing is cut"
    own.after_round(model, 1, Batch(inputs, labels))
    accuracies = [float((by_hand(twin, k, inputs).argmax(1) == labels).double().mean()) for k in range(1, WIDTH + 1)]
    expected = 1 + accuracies.index(max(accuracies))
    assert 1 < expected < WIDTH
    assert int(model.get_buffer("2.chosen")) == expected
    assert torch.allclose(model(inputs), by_hand(twin, expected, inputs))
    own.after_round(model, 1, Batch(inputs, torch.full((300,), CLASSES)))
    assert int(model.get_buffer("2.chosen")) == 1, "no length is right: the shortest"


@torch.no_grad()
def test_of_lengths_that_are_as_good_the_shortest_is_chosen_and_ignored_labels_do_not_count() -> None:
    own, model, twin = component(eta=4.0, validation=9), nested(eta=4.0, validation=9).eval(), plain().eval()
    inputs, _ = data(300)
    labels = by_hand(twin, 5, inputs).argmax(1)
    labels[by_hand(twin, 3, inputs).argmax(1) != labels] = IGNORED  # of what is left both lengths are right
    own.after_round(model, 1, Batch(inputs, labels))
    right = [int((by_hand(twin, k, inputs).argmax(1) == labels).sum()) for k in range(1, WIDTH + 1)]
    assert right[2] == right[4] == max(right) == int((labels != IGNORED).sum()) < 300
    assert int(model.get_buffer("2.chosen")) == 1 + right.index(max(right)) <= 3


def test_after_each_round_the_global_model_is_cut_and_the_test_lacks_the_validation_examples(
    scenario: Build, tmp_path: Path
) -> None:
    tables: dict[str, Any] = {
        "model": {"name": "mlp", "width": 16, "depth": 1, "dropout": 0.5},
        "components": [{"name": "nested-dropout", "eta": 4.0, "validation": 30}],
        "federation": {"rounds": 2, "batch_size": 4},
        "attacks": [],
    }
    world = worlds.build(scenario(**tables))
    world.check()
    (name,) = (name for name, _ in world.models.new().named_buffers())
    first, *later = train_rounds(world, 2)
    assert float(first[name]) == 0
    assert len({float(weights["1.weight"].sum()) for weights in (first, *later)}) == 3, "each round has its own tensors"
    test, accuracy = world.validation.reduced_dataset.test, 0.0
    for weights in later:
        model = world.models.new()
        model.load_state_dict(dict(weights))
        chosen = float(weights[name])
        assert 1 <= chosen <= 16
        with torch.no_grad():
            world.stack.model_components[0].after_round(model.eval(), 1, world.validation.examples)
            accuracy = float((model(test.inputs).argmax(1) == test.labels).double().mean())
        assert float(model.get_buffer(name)) == chosen
        assert apps.evaluate_model(world, weights)["test_accuracy"] == pytest.approx(accuracy)
    assert len(test) == len(world.data.dataset.test) - 30
    record = recorded(scenario(**tables), tmp_path)
    assert record.arms[0].rounds[1].test_metrics["test_accuracy"] == pytest.approx(accuracy)


def test_one_thing_chooses_k_and_examples_must_suffice(scenario: Build) -> None:
    with pytest.raises(ValueError, match="kept and validation exclude each other"):
        component(kept=3, validation=9)
    many = worlds.build(scenario(components=[{"name": "nested-dropout", "validation": 10_000}]))
    with pytest.raises(ScenarioError, match="components.validation is 10000, expected below"):
        many.check()
