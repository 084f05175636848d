"""Pad blocks: units of a table, packed passes against separate samples, what sees what, and a client that trains."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import nn

from fedsim.components.core.pads import units
from fedsim.components.loss import pad_blocks
from fedsim.components.loss.pad_blocks import sure_of
from fedsim.core.hooks import HookContext
from fedsim.core.nets.losses import compute_example_losses
from fedsim.federation.client import local_training
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from tests.components.generating import VOCABULARY, make, tiny_llama
from tests.components.loss.padding import BLOCKS, packed_scores, padded, texts


@pytest.mark.paper_step("pad-blocks", "one pass over packed samples of tokens and pads")
def test_a_packed_loss_is_that_of_separate_samples() -> None:
    model, batch = padded(), texts()
    scores, targets = packed_scores(model)
    own = compute_example_losses(scores[:, batch.inputs.shape[1] :], targets)
    for row, blocks in enumerate(BLOCKS):
        costs: list[torch.Tensor] = []
        for place, pads in blocks:
            sample = torch.cat((batch.inputs[row, : place + 1], torch.full((pads,), VOCABULARY)))
            with torch.no_grad():
                found = model(sample[None])[0, place + 1 :].log_softmax(-1)
            wanted = batch.labels[row, place + 1 : place + 1 + pads]
            costs += [-found[number, token] for number, token in enumerate(wanted.tolist())]
        torch.testing.assert_close(own[row], torch.stack(costs).mean(), rtol=0, atol=1e-5)


def test_a_model_of_layers_is_asked_for_and_scores_stay() -> None:
    model, plain = padded(), tiny_llama().eval()
    tokens = texts().inputs
    assert torch.equal(model(tokens), plain(tokens))
    with pytest.raises(Exception, match="single layers of a causal language model"):
        make("pad-blocks").prepare(nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5)), torch.Generator())


def place(model: nn.Module) -> HookContext:
    """The first step of a client that received these weights."""
    received = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
    return HookContext(1, 0, 0, torch.Generator().manual_seed(1), received)


@pytest.mark.paper_step("pad-blocks", "lexical units marked by the model's own confidence")
def test_spans_are_marked_by_the_model_as_it_was_sent_while_the_client_trains_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, batch, marked = padded(), texts(), list[Sequence[float]]()
    monkeypatch.setattr(pad_blocks, "units", lambda row, sure, most: (marked.append(row), units(row, sure, most))[1])
    with torch.no_grad():
        expected = sure_of(model(batch.inputs).softmax(-1), batch.labels)
        sent = place(model)
        for parameter in model.parameters():
            parameter.add_(0.5)
        assert sure_of(model(batch.inputs).softmax(-1), batch.labels) != expected
    make("pad-blocks").loss(model, batch, model(batch.inputs), sent)
    assert marked == expected


def test_the_loss_marks_by_the_frozen_model_and_trains_pad_and_adapters() -> None:
    model = make("lora", targets=("*.q_proj",), rank=2).prepare(tiny_llama(), torch.Generator().manual_seed(0))
    term = make("pad-blocks", sure=1e-6, weight=0.5)  # any token follows
    model = term.prepare(model, torch.Generator())
    batch = texts()
    found = term.loss(model, batch, model(batch.inputs), place(model))
    trained = {name: own for name, own in model.named_parameters() if own.requires_grad}
    gradient = dict(zip(trained, torch.autograd.grad(found, [*trained.values()]), strict=True))
    assert gradient["embed_tokens.pad"].any()
    assert all(gradient[name].any() for name in trained if "lora_b" in name)
    assert set(trained) == {"embed_tokens.pad"} | {name for name in trained if "lora" in name}
    twice = make("pad-blocks", sure=1e-6).loss(model, batch, model(batch.inputs), place(model))
    torch.testing.assert_close(twice, 2 * found)
    with torch.no_grad():  # the adapters change what the model is sure of, and not what is marked
        for name in (own for own in trained if "lora_b" in own):
            trained[name].add_(1.0)
    sure = make("pad-blocks", sure=1.0, unsure=0.0)
    none = sure.loss(model, batch, model(batch.inputs), place(model))
    assert none.requires_grad
    assert none.item() == 0


@pytest.fixture
def of_news(scenario: Callable[..., Scenario]) -> Callable[..., Scenario]:
    def make_scenario(*components: dict[str, object]) -> Scenario:
        return scenario(
            data={"name": "lee-news", "length": 8},
            model={"name": "tiny-llama", "width": 16, "hidden": 16},
            components=list(components),
        )

    return make_scenario


LORA = {"name": "lora", "targets": ["*.q_proj", "*.v_proj"], "rank": 2}


def test_pads_are_what_a_client_sends(of_news: Callable[..., Scenario]) -> None:
    world = worlds.build(of_news(LORA, {"name": "pad-blocks", "sure": 1e-4}))
    update, _ = local_training(world, world.models.first_weights, 1, 0)
    assert update.tensors["embed_tokens.pad"].any()
    again, _ = local_training(world, world.models.first_weights, 1, 0)
    assert all(torch.equal(tensor, again.tensors[name]) for name, tensor in update.tensors.items())


def test_an_adapter_that_freezes_the_pad_is_refused(of_news: Callable[..., Scenario]) -> None:
    with pytest.raises(Exception, match="the pad is frozen. Name 'pad-blocks' behind the adapter"):
        worlds.build(of_news({"name": "pad-blocks"}, LORA)).check()
