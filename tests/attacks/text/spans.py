"""Batches whose sentences spans give away."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from fedsim.core import registry, seeding
from fedsim.core.nets.losses import IGNORED, cross_entropy
from fedsim.core.types import InputSpec, Observation, Reconstruction
from fedsim.models._checkpoint import CausalModel
from tests.attacks.solving import sending
from tests.attacks.written import TABLES
from tests.federating import watched

KNOWN = ("batch-size", "dropout-rates")
VOCABULARY, LENGTH = 50, 4


def attacked(observation: Observation, **changes: Any) -> Reconstruction:
    method = registry.get("attack", "dager")
    return method.make(method.config(**changes))(observation, seeding.generator(0, "attack"))


def spec(length: int, vocabulary: int) -> InputSpec:
    return InputSpec((length,), vocabulary, (), (), vocabulary=vocabulary)


def llama(**changes: Any) -> nn.Module:
    method = registry.get("model", "tiny-llama")
    with seeding.isolate_randomness(5):
        return method.make(
            method.config.model_validate({"width": 64, "hidden": 64, **changes}),
            spec(LENGTH, VOCABULARY),
        )


def checkpoint() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        attn_implementation="eager",
    )
    with seeding.isolate_randomness(6):
        return CausalModel(transformers.LlamaForCausalLM(config), spec(LENGTH, VOCABULARY))


def gpt2(tied: bool = True) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=8, n_embd=48, n_layer=3, n_head=4, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, tie_word_embeddings=tied, attn_implementation="eager",
    )  # fmt: skip
    with seeding.isolate_randomness(6):
        return CausalModel(transformers.GPT2LMHeadModel(config), spec(LENGTH, VOCABULARY))


def seen(model: nn.Module, sentences: list[list[int]]) -> Observation:
    """Return what a server sees of one gradient of any model on these sentences, each with one more token as label."""
    longest = max(map(len, sentences)) - 1
    inputs, labels = torch.zeros(len(sentences), longest).long(), torch.full((len(sentences), longest), IGNORED)
    for row, sentence in enumerate(sentences):
        inputs[row, : len(sentence) - 1], labels[row, : len(sentence) - 1] = (
            torch.tensor(sentence[:-1]),
            torch.tensor(sentence[1:]),
        )
    trained = {name: own for name, own in model.named_parameters() if own.requires_grad}
    gradient = torch.autograd.grad(cross_entropy(model(inputs), labels), list(trained.values()), allow_unused=True)
    tensors = {
        name: torch.zeros_like(own) if found is None else found
        for (name, own), found in zip(trained.items(), gradient, strict=True)
    }
    observation, _, _ = watched(knows=KNOWN, **TABLES, federation={"clients": 2, "batch_size": 1})
    vocabulary = model.get_submodule(_embedding(model)).weight.shape[0]
    return sending(
        observation,
        tensors,
        model=model,
        sites=(),
        batch_size=len(sentences),
        spec=InputSpec((longest,), vocabulary, (), (), vocabulary=vocabulary),
    )


def _embedding(model: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if isinstance(module, nn.Embedding))


def read(found: Reconstruction) -> list[tuple[int, ...]]:
    return sorted(tuple(token for token in row if token >= 0) for row in found.inputs.tolist())


def inputs_of(sentences: list[list[int]]) -> list[tuple[int, ...]]:
    return sorted(tuple(sentence[:-1]) for sentence in sentences)


THREE = [[3, 14, 15, 9, 2], [6, 5, 35, 8, 9], [7, 9, 3, 23, 8]]
FOUR = [*THREE, [9, 23, 5, 6, 8]]
REPEATED = [THREE[0], [*THREE[0][:2], 30], THREE[0], [*THREE[0][:3], 8], [*THREE[0][:2], 15], THREE[1]]


def trained(steps: int, rate: float) -> dict[str, Any]:
    optimizer = {"name": "sgd", "learning_rate": rate}
    return {"clients": 2, "batch_size": 1, "algorithm": "fedavg", "local_steps": steps, "optimizer": optimizer}


def stepped(rate: float, sentences: list[list[int]]) -> Observation:
    """Return what a server sees of SGD in double precision, a step a sentence."""
    model = llama().double()
    trained = copy.deepcopy(model)
    for sentence in sentences:
        loss = cross_entropy(trained(torch.tensor([sentence[:-1]])), torch.tensor([sentence[1:]]))
        gradient = torch.autograd.grad(loss, list(trained.parameters()))
        with torch.no_grad():
            for parameter, direction in zip(trained.parameters(), gradient, strict=True):
                parameter.sub_(rate * direction)
    observation, ends = seen(model, sentences), dict(trained.named_parameters())
    tensors = {name: own.detach() - ends[name].detach() for name, own in model.named_parameters()}
    count = len(sentences)
    return replace(
        observation, update=replace(observation.update, kind="delta", tensors=tensors), learning_rate=rate,
        local_steps=count, batch_size=1, batch_sizes=(1,) * count, examples=count,
    )  # fmt: skip
