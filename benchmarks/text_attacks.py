"""Attacks on a text: what each reads from one gradient of a tiny Llama, through dropout and through noise.

Sentences of real news of up to 16 tokens; a victim is a client's first gradient on one sentence, at fresh weights and
after 600 steps of training on other sentences. With `--full` more victims, further conditions, and batches of four. The
same victims, dropout masks and noise for every attack. Dropout masks are known, ignored (the attacker leaves dropout
out), or estimated, searched along with the text; attacks that cannot search them have no such row. Figures are means
over victims, with their 95 % interval by bootstrap: tokens right at their place, exact sentences, and recall and
precision of the set of tokens. An attack that does not apply counts as 0. Chance is what the sentence's own tokens in
random order have right on average, the control is the same attack on the gradient of the next client's sentence. Last
come differences between estimated and ignored masks, victim by victim.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch

from benchmarks._experiments import Budget, Cells, Measure, experiment
from benchmarks._rows import Row, averaged
from benchmarks._small_language_model import trained
from fedsim.core import registry, seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.losses import IGNORED
from fedsim.core.types import Knowledge, Observation, Reconstruction, Tensors, Truth, WireEntry
from fedsim.federation.client import local_training
from fedsim.metrics.text import score_sentences, score_words
from fedsim.scenario import parse
from fedsim.scenario.world import World, build
from fedsim.threat.observe import observe
from fedsim.threat.victim import Victim

_KNOWN: tuple[Knowledge, ...] = ("batch-size", "dropout-rates")
_RIGHT = "tokens right"
_FIGURES = (_RIGHT, "exact sentences", "words found", "found words right")
ATTACKS: Mapping[str, Mapping[str, Any]] = {
    "word-readout": {},
    "tag": {"max_iterations": 100},
    "lamp": {"max_iterations": 60, "drafts": 40, "every": 20, "candidates": 30, "finishing": 2000, "restarts": 1},
    "subspace-distance": {},
    "dager": {},
    "sentence-atoms": {},
}
LONG = "lamp, 8000 changes"  # of tokens at the end, four times as many as in the other rows
SEARCHES = ("tag", "lamp", LONG)
_LENGTH = 16
_CLIENTS = 20
_UNSEEN = 1000  # the first sentence that the trained model has not learnt
_STRIDE = 37  # between two clients' sentences


class Condition(NamedTuple):
    """What a client does, and what the attacker knows of it."""

    name: str
    dropout: float = 0.0
    noise: float = 0.0
    knows: tuple[Knowledge, ...] = _KNOWN
    ignores_masks: bool = False

    @property
    def estimates(self) -> bool:
        """Whether the attacker searches the masks."""
        return bool(self.dropout) and "masks" not in self.knows and not self.ignores_masks


CONDITIONS = (
    Condition("plain"),
    Condition("dropout 0.1, masks known", 0.1, knows=(*_KNOWN, "masks")),
    Condition("dropout 0.1, masks ignored", 0.1, ignores_masks=True),
    Condition("dropout 0.1, masks estimated", 0.1),
    Condition("noise 1e-3", noise=1e-3),
)
FURTHER = (
    Condition("dropout 0.3, masks known", 0.3, knows=(*_KNOWN, "masks")),
    Condition("dropout 0.3, masks ignored", 0.3, ignores_masks=True),
    Condition("dropout 0.3, masks estimated", 0.3),
)
Seen = tuple[Observation, Truth, World]


@experiment("text-attacks", minutes=15, page="benchmarks/text-attacks")
def text_attacks(budget: Budget) -> Cells:
    """Return two cells for each batch size and model: of all attacks, and of the long search."""
    conditions, victims = ((*CONDITIONS, *FURTHER), 16) if budget.full else (CONDITIONS, 8)
    cells: dict[str, Measure] = {}
    for size in (1, 4) if budget.full else (1,):
        for weights in ("fresh", "trained"):
            words = f"{weights}, batch {size}"
            cells[words] = partial(compared, weights, conditions, tuple(ATTACKS), size, victims)
            asked = conditions if budget.full else CONDITIONS[:1]
            cells[f"{words}, {LONG}"] = partial(compared, weights, asked, (LONG,), size, victims)
    return cells


def compared(
    weights: str, conditions: Sequence[Condition], attacks: Sequence[str], size: int, victims: int
) -> list[Row]:
    """Return the rows of some attacks on victims of one model, and what chance and a control come to."""
    rows: list[Row] = []
    right: dict[tuple[str, str], list[float]] = {}
    for condition in conditions:
        seen = list(observed(weights, condition, victims, size))
        setting = f"{weights}, {condition.name}, batch {size}"
        for name in attacks:
            if condition.estimates and name not in SEARCHES:
                continue
            begin = time.perf_counter()
            guesses = [attacked(name, condition, observation) for observation, _, _ in seen]
            print(f"{name}, {setting}: {(time.perf_counter() - begin) / victims:.1f} s a victim", file=sys.stderr)
            figures = [scores(guess, truth, world) for guess, (_, truth, world) in zip(guesses, seen, strict=True)]
            rows += [
                averaged(figure, f"{name}, {setting}", [of_victim[figure] for of_victim in figures], "share")
                for figure in _FIGURES
            ]
            right[name, condition.name] = [figure[_RIGHT] for figure in figures]
            if name in SEARCHES and condition.name == "plain":
                others = zip([*guesses[1:], guesses[0]], seen, strict=True)
                control = [scores(guess, truth, world)[_RIGHT] for guess, (_, truth, world) in others]
                rows.append(averaged(_RIGHT, f"{name} on another's gradient, {setting}", control, "share"))
        if condition.name == "plain" and LONG not in attacks:
            rows.append(averaged(_RIGHT, f"chance, {setting}", [chance(truth) for _, truth, _ in seen], "share"))
    return [*rows, *_differences(weights, right, size)]


def _differences(weights: str, right: Mapping[tuple[str, str], Sequence[float]], size: int) -> list[Row]:
    """Return what estimating masks adds to ignoring them, paired by victim."""
    rows: list[Row] = []
    for (name, condition), values in right.items():
        ignored = right.get((name, condition.replace("estimated", "ignored")), ())
        if condition.endswith("estimated"):
            gains = [value - other for value, other in zip(values, ignored, strict=True)]
            setting = f"{name}, {weights}, {condition} minus ignored, batch {size}"
            rows.append(averaged(_RIGHT, setting, gains, "share"))
    return rows


def observed(weights: str, condition: Condition, victims: int, size: int) -> Iterator[Seen]:
    """Yield the first gradients of the first clients."""
    scenario = {
        "title": "benchmark",
        "seed": 5,
        "data": {"name": "lee-news", "length": _LENGTH},
        "model": {"name": "tiny-llama", "dropout": condition.dropout},
        "federation": {"clients": _CLIENTS, "batch_size": size},
        "defenses": [{"name": "gradient-noise", "scale": condition.noise}] if condition.noise else [],
    }
    world = build(parse(scenario, "benchmark"))
    shares = [_UNSEEN + _STRIDE * client + torch.arange(size) for client in range(_CLIENTS)]
    world = replace(world, data=replace(world.data, shares=shares))
    sent = _learnt() if weights == "trained" else world.models.first_weights
    for client in range(victims):
        update, truth = local_training(world, sent, 1, client)
        entry = WireEntry(1, client, sent, update)
        yield observe(Victim(world, entry, truth), condition.knows), truth, world


@lru_cache(maxsize=1)
def _learnt() -> Tensors:
    return {name: parameter.detach() for name, parameter in trained(_LENGTH).model.named_parameters()}


def chance(truth: Truth) -> float:
    """Return the share of tokens that stand right on average when those of each sentence are put in random order."""
    batch, shares = truth.private[0], []
    for tokens, labels in zip(batch.inputs, batch.labels, strict=True):
        counts = tokens[labels != IGNORED].unique(return_counts=True)[1].double()
        shares.append(float((counts / counts.sum()).square().sum()))
    return _mean(shares)


def attacked(name: str, condition: Condition, observation: Observation) -> Reconstruction | None:
    """Return what an attack guesses, or None where it does not apply."""
    method = registry.get("attack", name.partition(",")[0])
    settings = {**ATTACKS["lamp"], "finishing": 8000} if name == LONG else dict(ATTACKS[name])
    ignores = {"unknown_masks": "ignored"} if condition.ignores_masks and name in SEARCHES else {}
    attack = method.make(method.config.model_validate(settings | ignores))
    try:
        return attack(observation, seeding.generator(0, f"benchmark {method.name}"))
    except NotApplicable as reason:
        print(f"{name}: {reason}", file=sys.stderr)
        return None


def scores(reconstruction: Reconstruction | None, truth: Truth, world: World) -> dict[str, float]:
    """Return every figure of one victim; zeros without a guess."""
    if reconstruction is None:
        return dict.fromkeys(_FIGURES, 0.0)
    assert world.data.dataset.tokenizer is not None
    batch = truth.private[0]
    sentences = score_sentences(reconstruction, batch, world.data.dataset.tokenizer).sentences
    words = score_words(reconstruction, batch, world.data.dataset.tokenizer)
    return {
        _RIGHT: _mean([sentence.values["token_accuracy"] for sentence in sentences]),
        "exact sentences": _mean([float(sentence.values["exact"]) for sentence in sentences]),
        "words found": words["words_found"],
        "found words right": words["words_right"],
    }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
