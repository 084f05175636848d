"""Attacks on a text: what each reads from one gradient of a tiny Llama, and what dropout leaves.

Sentences of real news of up to 16 tokens; a victim is a client's first gradient on one sentence, at fresh weights and
after 600 steps of training on other sentences. The same victims and dropout masks for every attack. Dropout masks are
ignored (the attacker leaves dropout out), or estimated, searched along with the text; attacks that cannot search them
have no such row. Figures are means over victims, with their 95 % interval by bootstrap: tokens right at their place,
exact sentences, and recall and precision of the set of tokens. An attack that does not apply counts as 0. Chance is
what the sentence's own tokens in random order have right on average, the control is the same attack on the gradient of
the next client's sentence. With ``--full`` 16 victims instead of 5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, mean_row
from benchmarks._small_language_model import train_small_model
from benchmarks._victims import make_attack, send_update, try_attack, world_of
from fedsim.core.nets.losses import IGNORED
from fedsim.core.types import Knowledge, Reconstruction, Tensors, Truth
from fedsim.metrics.text import score_sentences, score_words
from fedsim.threat.observe import observe
from fedsim.threat.victim import Victim

_KNOWN: tuple[Knowledge, ...] = ("batch-size", "dropout-rates")
_RIGHT = "tokens right"
_FIGURES = (_RIGHT, "exact sentences", "words found", "found words right")
ATTACKS: Mapping[str, Mapping[str, Any]] = {
    "word-readout": {},
    "tag": {"max_iterations": 100},
    "lamp": {
        "max_iterations": 60,
        "drafts": 40,
        "move_interval": 20,
        "candidates": 30,
        "final_moves": 2000,
        "restarts": 1,
    },
    "subspace-distance": {},
    "dager": {},
}
SEARCHES = ("tag", "lamp")
_LENGTH = 16
_CLIENTS = 20
_UNSEEN = 1000  # the first sentence that the trained model has not learnt
_STRIDE = 37  # between two clients' sentences


class Condition(NamedTuple):
    """What a client does, and what the attacker knows of it."""

    name: str
    dropout: float = 0.0
    ignores_masks: bool = False

    @property
    def estimates(self) -> bool:
        """Whether the attacker searches the masks."""
        return bool(self.dropout) and not self.ignores_masks


CONDITIONS = (
    Condition("plain"),
    Condition("dropout 0.1, masks ignored", 0.1, ignores_masks=True),
    Condition("dropout 0.1, masks estimated", 0.1),
)


@experiment("text-attacks", minutes=5, page="benchmarks/text-attacks")
def text_attacks(budget: Budget) -> Cells:
    """Return a cell for each state of the model; the fresh one is without dropout."""
    victims = 16 if budget.full else 5
    return {
        "fresh": partial(compare_attacks, "fresh", CONDITIONS[:1], victims),
        "trained": partial(compare_attacks, "trained", CONDITIONS, victims),
    }


def compare_attacks(weights: str, conditions: Sequence[Condition], victims: int) -> Iterator[Row]:
    """Yield the rows of all attacks on victims of one model, and what chance and a control come to."""
    for condition in conditions:
        seen = list(observe_clients(weights, condition, victims))
        setting = f"{weights}, {condition.name}"
        for name in ATTACKS:
            if condition.estimates and name not in SEARCHES:
                continue
            ignores = {"unknown_masks": "ignored"} if condition.ignores_masks and name in SEARCHES else {}
            attack = make_attack(name, **ATTACKS[name], **ignores)
            guesses = [try_attack(attack, observe(one, _KNOWN), 0, f"benchmark {name}")[0] for one in seen]
            figures = list(map(scores, guesses, seen))
            for figure in _FIGURES:
                yield mean_row(figure, f"{name}, {setting}", [of_victim[figure] for of_victim in figures], "share")
            if name in SEARCHES and condition.name == "plain":
                control = [figure[_RIGHT] for figure in map(scores, [*guesses[1:], guesses[0]], seen)]
                yield mean_row(_RIGHT, f"{name} on another's gradient, {setting}", control, "share")
        if condition.name == "plain":
            yield mean_row(_RIGHT, f"chance, {setting}", [chance(one.truth) for one in seen], "share")


def observe_clients(weights: str, condition: Condition, victims: int) -> Iterator[Victim]:
    """Yield the first gradients of the first clients."""
    scenario = {
        "seed": 5,
        "data": {"name": "lee-news", "length": _LENGTH},
        "model": {"name": "tiny-llama", "dropout": condition.dropout},
        "federation": {"clients": _CLIENTS, "batch_size": 1},
    }
    world = world_of(scenario)
    shares = [torch.tensor([_UNSEEN + _STRIDE * client]) for client in range(_CLIENTS)]
    world = replace(world, data=replace(world.data, shares=shares))
    sent = _learnt() if weights == "trained" else None
    return (send_update(world, client, sent) for client in range(victims))


@lru_cache(maxsize=1)
def _learnt() -> Tensors:
    return {name: parameter.detach() for name, parameter in train_small_model(_LENGTH).named_parameters()}


def chance(truth: Truth) -> float:
    """Return the share of tokens that stand right on average when those of each sentence are put in random order."""
    batch, shares = truth.original_batches[0], []
    for tokens, labels in zip(batch.inputs, batch.labels, strict=True):
        counts = tokens[labels != IGNORED].unique(return_counts=True)[1].double()
        shares.append(float((counts / counts.sum()).square().sum()))
    return _mean(shares)


def scores(reconstruction: Reconstruction | None, victim: Victim) -> dict[str, float]:
    """Return every figure of one victim; zeros without a guess."""
    if reconstruction is None:
        return dict.fromkeys(_FIGURES, 0.0)
    batch, tokenizer = victim.truth.original_batches[0], victim.world.data.dataset.tokenizer
    assert tokenizer is not None
    sentences = score_sentences(reconstruction, batch, tokenizer).sentences
    words = score_words(reconstruction, batch, tokenizer)
    return {
        _RIGHT: _mean([sentence.values["token_accuracy"] for sentence in sentences]),
        "exact sentences": _mean([float(sentence.values["exact"]) for sentence in sentences]),
        "words found": words["words_found"],
        "found words right": words["words_right"],
    }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
