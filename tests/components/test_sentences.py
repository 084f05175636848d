"""Components of the last features on text: sentences with a label each, and with one a token."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.components.bottleneck.key_value_bottleneck import bottleneck_of, cells_of
from fedsim.core import seeding
from fedsim.core.errors import ScenarioError
from fedsim.core.nets.masks import inject_masks
from fedsim.core.types import Batch
from fedsim.federation.client import local_training
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from fedsim.scenario.world import World

Build = Callable[..., Scenario]
CLASSES, WIDTH = 3, 10
TAGS: dict[str, Any] = {
    "data": {"name": "digit-tags", "sentences": 120, "length": 6},
    "model": {"name": "tiny-llama", "width": 16, "heads": 2, "key_value_heads": 1, "hidden": 16},
    "federation": {"clients": 2, "batch_size": 8},
}
BOTTLENECK = {"name": "key-value-bottleneck", "codebooks": 3, "pairs": 16, "key_width": 4, "passes": 2}


class _Sentences(nn.Module):
    """Tokens (B, T) to scores (B, K): the mean over the embeddings of a sentence, and one hidden layer."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, WIDTH)
        self.hidden = nn.Linear(WIDTH, WIDTH)
        self.dropout = nn.Dropout(0.25)
        self.score = nn.Linear(WIDTH, CLASSES, bias=False)

    def features(self, tokens: Tensor) -> Tensor:
        return torch.tanh(self.hidden(self.embedding(tokens).mean(1)))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.score(self.dropout(self.features(tokens)))


def labelled(scenario: Build, component: dict[str, Any]) -> World:
    """Clients whose sentences are labelled by how many of their words have a tag."""
    world = worlds.build(scenario(**TAGS, components=[component]))
    own = world.data.dataset
    train, test = (Batch(b.inputs, (b.labels > 0).sum(1).clamp_max(CLASSES - 1)) for b in (own.train, own.test))
    spec = replace(own.spec, classes=CLASSES)

    def model() -> nn.Module:
        with seeding.isolate_randomness(3):
            return _Sentences(spec.vocabulary or 0)

    dataset = replace(own, train=train, test=test, spec=spec, task="text-classification")
    return replace(world, data=replace(world.data, dataset=dataset), own_model=model)


def test_a_sentence_s_features_are_cut_to_the_drawn_prefix(scenario: Build) -> None:
    world = labelled(scenario, {"name": "nested-dropout", "eta": 3.0})
    world.check()
    update, truth = local_training(world, world.models.first_weights, 1, 0)
    (batch,), ((mask,),) = truth.batches, truth.masks
    twin = _Sentences(world.data.dataset.spec.vocabulary or 0)
    twin.load_state_dict(world.models.first_weights)
    loss = F.cross_entropy(twin.score(twin.features(batch.inputs) * mask), batch.labels)
    for (name, _), gradient in zip(
        twin.named_parameters(), torch.autograd.grad(loss, list(twin.parameters())), strict=True
    ):
        assert torch.allclose(gradient, update.tensors[name], atol=1e-6), name
    assert torch.equal(mask, (torch.arange(WIDTH) < mask[0].sum()).float().expand(8, WIDTH))


def test_a_tagger_s_features_are_cut_at_every_token(scenario: Build) -> None:
    world = worlds.build(scenario(**TAGS, components=[{"name": "nested-dropout", "eta": 3.0}]))
    world.check()
    (site,) = world.models.sites
    assert site.name == "lm_head.dropout"
    update, truth = local_training(world, world.models.first_weights, 1, 0)
    length = int(truth.masks[0][0][0, 0].sum())
    assert 0 < length < 16
    score = update.tensors["lm_head.score.weight"]
    assert score[:, :length].any(0).all()
    assert not score[:, length:].any()
    model, inputs = world.models.load_weights(world.models.first_weights), truth.batches[0].inputs
    with inject_masks(replaced(site, len(inputs)), truth.masks[0]):
        whole = model(inputs)
    hidden: list[Tensor] = []
    handle = model.get_submodule("lm_head.dropout").register_forward_pre_hook(lambda _m, given: hidden.append(given[0]))
    model(inputs)
    handle.remove()
    head = model.get_submodule("lm_head.score")
    assert torch.allclose(whole, F.linear(hidden[0][..., :length], head.weight[:, :length], head.bias), atol=1e-6)  # type: ignore[arg-type,index]


def replaced(site: Any, examples: int) -> tuple[Any, ...]:
    return (replace(site, shape=(examples, *site.shape[1:])),)


def test_a_layer_that_runs_twice_in_a_pass_has_no_length_of_its_own(scenario: Build) -> None:
    own = {"name": "nested-dropout", "at": "layers.1.dropout"}
    with pytest.raises(ScenarioError, match=r"'layers\.1\.dropout' runs 2 times in a forward pass, expected once"):
        worlds.build(scenario(**TAGS, components=[own])).check()


def test_values_of_pooled_sentences_are_read_and_trained_alone(scenario: Build) -> None:
    world = labelled(scenario, BOTTLENECK)
    world.check()
    update, truth = local_training(world, world.models.first_weights, 1, 0)
    (batch,) = truth.batches
    model = bottleneck_of(world.models.load_weights(world.models.first_weights))
    twin = _Sentences(world.data.dataset.spec.vocabulary or 0)
    inner = {
        name.removeprefix("encoder."): t
        for name, t in world.models.first_weights.items()
        if name.startswith("encoder.")
    }
    twin.load_state_dict(inner, strict=False)
    features, lookup = twin.features(batch.inputs), model.lookup
    read = model.read(batch.inputs)
    for codebook in range(3):
        distances = torch.cdist(features @ lookup.projections[:, codebook], lookup.keys[codebook])
        assert torch.equal(read[:, codebook, 0, 0], distances.argmin(1))
    (name,) = update.tensors
    expected = torch.zeros(3, 16, CLASSES)
    residual = (1.0 / CLASSES - F.one_hot(batch.labels, CLASSES)) / (3 * len(batch))  # values begin at 0
    for own, slope in zip(read[:, :, 0, 0], residual, strict=True):
        for codebook, key in enumerate(own.tolist()):
            expected[codebook, key] += slope
    found = update.tensors[name].unflatten(0, (3, 16))
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.equal(found.any(-1), cells_of(read, 16) & expected.any(-1))


@pytest.mark.parametrize("same", [False, True])
def test_two_networks_choose_each_other_s_sentences(scenario: Build, same: bool) -> None:
    world = labelled(scenario, {"name": "co-teaching", "forget_rate": 0.25, "same_batch": same})
    world.check()
    update, truth = local_training(world, world.models.first_weights, 1, 0)
    (batch,), (masks,) = truth.batches, truth.masks
    networks = []
    for name in ("first", "second"):
        twin = _Sentences(world.data.dataset.spec.vocabulary or 0)
        twin.load_state_dict(
            {k.removeprefix(f"{name}."): t for k, t in world.models.first_weights.items() if name in k}
        )
        networks.append(twin)
    parts = [slice(None)] * 2 if same else [slice(4), slice(4, None)]
    places, chosen = torch.arange(8), []
    for network, part in zip(networks, parts, strict=True):
        losses = F.cross_entropy(network.eval()(batch.inputs[part]), batch.labels[part], reduction="none")
        chosen.append(places[part][losses.argsort()[: int(0.75 * len(losses))]])
    for name, network, mask, own in zip(("first", "second"), networks, masks, reversed(chosen), strict=True):
        outputs = network.score(network.features(batch.inputs) * mask / 0.75)
        loss = F.cross_entropy(outputs[own], batch.labels[own])
        for (key, _), gradient in zip(
            network.named_parameters(), torch.autograd.grad(loss, list(network.parameters())), strict=True
        ):
            assert torch.allclose(gradient, update.tensors[f"{name}.{key}"], atol=1e-6), key


@pytest.mark.parametrize(
    ("component", "told"),
    [
        (BOTTLENECK, "it gives a single answer per example, and in this task every token has a label"),
        (
            {"name": "co-teaching"},
            r"each network must return an answer per example, \(examples, 2 classes\), but a network",
        ),
        ({"name": "feature-cutmix", "at": "norm", "size": [2, 2]}, "it works on images, and the examples are text"),
        ({"name": "cutmix"}, "it works on images, and the examples are text"),
    ],
)
def test_what_needs_one_label_a_sentence_says_so(scenario: Build, component: dict[str, Any], told: str) -> None:
    with pytest.raises(ScenarioError, match=told):
        worlds.build(scenario(**TAGS, components=[component])).check()
