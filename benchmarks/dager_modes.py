"""DAGER where its spans are not exact: noise of a stated relative size, 16 bits, several local steps, and dropout.

Sentences of real news of up to 16 tokens, tiny Llamas at fresh weights; a victim is a client's first update. Figures
are means over victims of the share of exact sentences; least and greatest are the ends of their 95 % interval, by
bootstrap over victims. Beside them, in `spans with room`, stands for how many victims the spans that count with
rounding alone, which is what the attack uses without noise, leave anything out: where they do not, it would refuse. Of
local steps `first step's sentences` are those of the first one. Of clients with dropout in front of what is read, words
come back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch

from attacks.core.attention import attentions
from attacks.text._subspaces import gradients_of
from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, mean_row
from benchmarks._victims import make_attack, send_update, try_attack, world_of
from fedsim.core.types import Batch, Knowledge, Observation
from fedsim.metrics.text import score_sentences, score_words
from fedsim.threat.observe import observe
from fedsim.threat.victim import Victim

_KNOWN: tuple[Knowledge, ...] = ("batch-size", "dropout-rates", "defenses")
_EMBEDDING = "embed_tokens.weight"
_SINGLE = 2 * torch.finfo(torch.float32).eps


class Condition(NamedTuple):
    """What a client sends."""

    name: str
    federation: Mapping[str, Any]
    blocks: int = 2
    defense: Mapping[str, Any] | None = None
    dtype: torch.dtype = torch.float32
    dropout: float = 0.0


@experiment("dager-modes", minutes=9, page="attacks/dager")
def dager_modes(budget: Budget) -> Cells:
    """Return a cell for each condition; the long version has more victims."""
    reading = {one.name: partial(rows, one, 20 if budget.full else 6) for one in conditions()}
    return {**reading, **{one.name: partial(words, one, 6 if budget.full else 2) for one in dropout_conditions()}}


def conditions() -> Iterator[Condition]:
    """Yield what is compared."""
    for size, blocks in ((1, 2), (4, 2), (4, 4)):
        federation, setting = {"batch_size": size}, f"batch {size}, {blocks} blocks"
        yield Condition(f"plain, {setting}", federation, blocks)
        for scale in (0.01, 0.03, 0.1):
            noise = {"name": "gradient-noise", "scale": scale, "relative": True}
            yield Condition(f"noise {scale:g}, {setting}", federation, blocks, defense=noise)
        if blocks == 2:  # noqa: PLR2004
            yield Condition(f"float16, {setting}", federation, defense={"name": "float16"})
            yield Condition(f"bfloat16, {setting}", federation, dtype=torch.bfloat16)
    for steps in (1, 2, 4):
        for rate in (1e-5, 1e-4, 1e-2, 1.0):
            optimizer = {"name": "sgd", "learning_rate": rate}
            federation = {"batch_size": 1, "algorithm": "fedavg", "local_steps": steps, "optimizer": optimizer}
            yield Condition(f"{steps} local {'step' if steps == 1 else 'steps'} of {rate:g}", federation)


def dropout_conditions() -> Iterator[Condition]:
    """Yield clients that drop out everywhere and keep their embedding to themselves."""
    for rate in (0.1, 0.3, 0.5):
        yield Condition(f"dropout {rate:g}, embedding not shared, batch 4", {"batch_size": 4}, dropout=rate)


def words(condition: Condition, victims: int) -> Iterator[Row]:
    """Yield how many words come back through dropout, and how many of those are right."""
    scores: list[dict[str, float]] = []
    for victim in observe_victims(condition, victims):
        tensors = {name: tensor for name, tensor in victim.entry.update.tensors.items() if name != _EMBEDDING}
        observation = observe(victim, _KNOWN)
        hidden = replace(
            observation, update=replace(observation.update, tensors=tensors), hidden_parameters=frozenset({_EMBEDDING})
        )
        guess, _ = try_attack(make_attack("dager"), hidden, 0, "benchmark dager")
        tokenizer = victim.world.data.dataset.tokenizer
        assert guess is not None
        assert tokenizer is not None
        scores.append(score_words(guess, victim.truth.original_batches[0], tokenizer))
    for figure, title in (("words_found", "words found"), ("words_right", "found words that are right")):
        yield mean_row(f"DAGER, {title}", condition.name, [score[figure] for score in scores], "share")


def rows(condition: Condition, victims: int) -> Iterator[Row]:
    """Yield the rows of one condition."""
    seen = list(observe_victims(condition, victims))
    exact = [exact_sentences(victim) for victim in seen]
    yield mean_row("DAGER, exact sentences", condition.name, [sum(flags) / len(flags) for flags in exact], "share")
    if condition.federation.get("local_steps", 1) > 1:
        yield mean_row("DAGER, first step's sentences", condition.name, [float(flags[0]) for flags in exact], "share")
    room = [float(leaves_room(observe(victim, _KNOWN))) for victim in seen]
    yield mean_row("spans with room", condition.name, room, "share")


def observe_victims(condition: Condition, victims: int) -> Iterator[Victim]:
    """Yield the first updates of the first clients."""
    world = world_of(
        {
            "seed": 5,
            "data": {"name": "lee-news", "length": 16},
            "model": {"name": "tiny-llama", "blocks": condition.blocks, "dropout": condition.dropout},
            "federation": {"clients": 20, **condition.federation},
            "defenses": [condition.defense] if condition.defense else [],
        }
    )
    for client in range(victims):
        victim = send_update(world, client)
        update = victim.entry.update
        tensors = {name: tensor.to(condition.dtype) for name, tensor in update.tensors.items()}
        yield replace(victim, entry=replace(victim.entry, update=replace(update, tensors=tensors)))


def exact_sentences(victim: Victim) -> list[bool]:
    """Return of every sentence of all steps whether it came back exactly."""
    batches, tokenizer = victim.truth.original_batches, victim.world.data.dataset.tokenizer
    inputs, labels = (torch.cat([getattr(batch, part) for batch in batches]) for part in ("inputs", "labels"))
    guess, _ = try_attack(make_attack("dager"), observe(victim, _KNOWN), 0, "benchmark dager")
    if guess is None:
        return [False] * len(inputs)
    assert tokenizer is not None
    sentences = score_sentences(guess, Batch(inputs, labels), tokenizer).sentences
    return [bool(sentence.values["exact"]) for sentence in sentences]


def leaves_room(observation: Observation) -> bool:
    """Say whether both spans, of all that stands out of rounding to single precision, are smaller than the width."""
    for layer in attentions(observation.model)[:2]:
        gradients = [gradient.double() for gradient in gradients_of(observation, layer).values()]
        singular = torch.linalg.svdvals(torch.cat([gradient / gradient.norm() for gradient in gradients]))
        if int((singular > _SINGLE * singular[0]).sum()) == gradients[0].shape[1]:
            return False
    return True
