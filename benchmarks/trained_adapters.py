"""DAGER on the adapters of a language model while a federation trains them: which sentences still come back.

A tiny Llama knows half of Lee's news. Five clients of ten other sentences each train LoRA of rank 64 on its queries and
values, until these have been learnt by heart; the server steps by Adam along the mean gradient. At some rounds each
client's gradient of two sentences of 16 tokens is attacked. With ``--full`` also SmolLM2-135M: four clients of eight
sentences, rank 64, batches of four.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, mean_row, median_row, share
from benchmarks._small_language_model import train_small_model
from benchmarks._victims import make_attack, send_update, try_attack, world_of
from fedsim.core.nets.losses import cross_entropy
from fedsim.core.types import Batch, Knowledge, Reconstruction, Tensors
from fedsim.federation.client import local_training
from fedsim.scenario.world import World
from fedsim.threat.observe import observe

_KNOWN: tuple[Knowledge, ...] = ("batch-size", "dropout-rates", "components")
_LENGTH = 16
_UNSEEN = 1000  # the first sentence that the tiny model has not learnt


class Case(NamedTuple):
    """A federation that trains adapters, and the rounds at which it is attacked."""

    words: str
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    rank: int
    clients: int
    sentences: int
    batch_size: int
    rate: float
    rounds: Sequence[int]

    @property
    def is_tiny(self) -> bool:
        """Whether the model learns the news first."""
        return self.model["name"] == "tiny-llama"


TINY = Case("tiny Llama", {"name": "tiny-llama"}, {}, 64, 5, 10, 2, 3e-3, (1, 2, 10, 50, 200))
LARGE = Case(
    "SmolLM2-135M", {"name": "smollm2-135m"}, {"tokenizer": "smollm2-135m"}, 64, 4, 8, 4, 1e-3, (1, 2, 5, 10, 20, 40)
)


def federation_of(case: Case) -> World:
    """Return the federation; client k owns sentences of its own that the model has not seen."""
    lora = {"name": "lora", "targets": ["*.q_proj", "*.v_proj"], "rank": case.rank}
    tables = {
        "seed": 5,
        "data": {"name": "lee-news", "length": _LENGTH, **case.data},
        "model": dict(case.model),
        "components": [lora],
        "federation": {"clients": case.clients, "batch_size": case.batch_size},
    }
    world = world_of(tables)
    shares = [_UNSEEN + case.sentences * client + torch.arange(case.sentences) for client in range(case.clients)]
    return replace(world, data=replace(world.data, shares=shares))


def first_weights(world: World, case: Case) -> dict[str, torch.Tensor]:
    """Return what round 1 starts from: fresh adapters on a model that knows news."""
    weights = {name: first_weight.clone() for name, first_weight in world.models.first_weights.items()}
    if case.is_tiny:
        for name, parameter in train_small_model(_LENGTH).named_parameters():
            part = name.removesuffix(".weight")
            inside = f"{part}.base.weight"
            weights[inside if inside in weights else name] = parameter.detach().clone()
    return weights


def train_over_rounds(world: World, case: Case) -> Iterator[tuple[int, Tensors, float]]:
    """Yield the weights that clients receive in the rounds of interest, and their mean loss on all of their data."""
    weights = first_weights(world, case)
    trainable = [name for name, parameter in world.models.new().named_parameters() if parameter.requires_grad]
    learned = {name: weights[name].requires_grad_() for name in trainable}
    optimizer = torch.optim.Adam(list(learned.values()), case.rate)
    for round_ in range(1, max(case.rounds) + 1):
        sent = {name: weight.detach() for name, weight in weights.items()}
        if round_ in case.rounds:
            yield round_, sent, loss_of(world, sent)
        updates = [local_training(world, sent, round_, client)[0].tensors for client in range(case.clients)]
        for name, weight in learned.items():
            weight.grad = torch.stack([one[name] for one in updates]).mean(0)
        optimizer.step()


@torch.no_grad()
def loss_of(world: World, weights: Tensors) -> float:
    """Return the mean loss of a token over what all clients own."""
    model, train = world.models.load_weights(weights), world.data.dataset.train
    owned = torch.cat(list(world.data.shares))
    losses = [float(cross_entropy(model(train.inputs[chosen]), train.labels[chosen])) for chosen in owned.split(8)]
    return sum(losses) / len(losses)


def count_sentences(reconstruction: Reconstruction, truth: Batch, padding: int) -> tuple[int, int]:
    """Return how many true sentences were returned token by token, and how many returned ones are none of them."""
    true = [_strip_padding(row, padding) for row in truth.inputs.tolist()]
    ours = [[token for token in row if token >= 0] for row in reconstruction.inputs.tolist()]
    return sum(text in ours for text in true), sum(text not in true for text in ours)


def _strip_padding(tokens: list[int], padding: int) -> list[int]:
    length = len(tokens)
    while length and tokens[length - 1] == padding:
        length -= 1
    return tokens[:length]


@experiment("trained-adapters", minutes=2, page="attacks/exact-frontier")
def trained_adapters(budget: Budget) -> Cells:
    """Return a cell for each federation."""
    return {case.words: partial(_rows, case) for case in ((TINY, LARGE) if budget.full else (TINY,))}


def _rows(case: Case) -> Iterator[Row]:
    world, attack = federation_of(case), make_attack("dager")
    tokenizer = world.data.dataset.tokenizer
    assert tokenizer is not None
    for round_, weights, loss in train_over_rounds(world, case):
        exact, wrong, refused, seconds = [], [], [], []
        for client in range(case.clients):
            victim = send_update(world, client, weights, round_)
            guess, taken = try_attack(attack, observe(victim, _KNOWN), 1, "attack")
            truth = victim.truth.original_batches[0]
            right, false = (0, 0) if guess is None else count_sentences(guess, truth, tokenizer.padding)
            exact.append(right / len(truth))
            wrong.append(false / len(truth))
            refused.append(float(guess is None))
            seconds.append(taken)
        setting = f"{case.words}, LoRA of rank {case.rank}, B = {case.batch_size}, round {round_}"
        yield Row("mean loss", setting, loss, "nats", n=case.clients * case.sentences)
        yield mean_row("sentences exact", setting, exact, "share")
        yield mean_row("sentences returned that are wrong", setting, wrong, "share")
        yield share("updates refused", setting, refused)
        yield median_row("processor seconds an update", setting, seconds, "s")
