"""Observations of small language models, and what an attack reads of them."""

import copy
from typing import Any

import torch
from torch import Tensor

from attacks.text.base import TextProblem
from fedsim.core.hooks import Attack
from fedsim.core.nets.losses import IGNORED
from fedsim.core.nets.masks import inject_masks
from fedsim.core.types import Observation, Truth
from fedsim.metrics.text import score_sentences
from fedsim.scenario.world import World
from tests.attacks.solving import sending

KNOWN = ("batch-size", "dropout-rates")
LONG = {
    "tag": {"max_iterations": 300},
    "lamp": {
        "max_iterations": 60,
        "move_interval": 20,
        "drafts": 20,
        "candidates": 20,
        "final_moves": 3000,
        "restarts": 1,
    },
}
SEARCHES = ("tag", "lamp")
SHORT = {
    "tag": {"max_iterations": 3},
    "lamp": {
        "max_iterations": 4,
        "move_interval": 2,
        "drafts": 2,
        "candidates": 4,
        "burn_in": 0.0,
        "final_moves": 8,
        "restarts": 1,
    },
}


def in_double(observation: Observation, truth: Truth) -> Observation:
    """Return the same observation, of a model in double precision."""
    model, batch = copy.deepcopy(observation.model).double(), truth.original_batches[0]
    masks = tuple(mask.double() for mask in truth.masks[0])
    with inject_masks(observation.sites, masks):
        loss = observation.loss(model(batch.inputs), batch.labels)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    tensors = dict(zip(dict(model.named_parameters()), gradients, strict=True))
    granted = None if observation.masks is None else (masks,)
    return sending(observation, tensors, model=model, masks=granted)


def in_order(truth: Truth) -> tuple[Tensor, Tensor]:
    """Return sentences (B, T), -1 behind their ends, and their next words; shorter ones first, as attacks put them."""
    batch = truth.original_batches[0]
    order = (batch.labels != IGNORED).sum(1).argsort(stable=True)
    labels = batch.labels[order]
    return batch.inputs[order].masked_fill(labels == IGNORED, -1), labels


def true_vectors(task: TextProblem, truth: Truth) -> Tensor:
    """Return the dummy that is the batch."""
    sentences, labels = in_order(truth)
    longer = torch.cat((sentences[:, :1], labels), 1)[:, : task.places]
    return task.table[longer.clamp_min(0)]


def recovered(attack: Attack[Any], seen: list[tuple[Observation, Truth]]) -> dict[str, float]:
    """Return means over clients: tokens right, those right by a guess from the next client's gradient, and by chance.

    Chance is a sentence's own tokens in random order.
    """
    guesses = [attack(observation, torch.Generator().manual_seed(0)).inputs[0] for observation, _ in seen]
    figures: dict[str, list[float]] = {"own": [], "other": [], "chance": []}
    for index, (_, truth) in enumerate(seen):
        sentence = in_order(truth)[0][0]
        counts = sentence[sentence >= 0].unique(return_counts=True)[1]
        length = int(counts.sum())
        figures["chance"].append(float((counts / length).square().sum()))
        for name, guess in (("own", guesses[index]), ("other", guesses[(index + 1) % len(seen)])):
            figures[name].append(int(((guess == sentence) & (sentence >= 0)).sum()) / length)
    return {name: sum(values) / len(values) for name, values in figures.items()}


def exact(guess: Any, truth: Truth, world: World) -> list[bool]:
    return [
        sentence.values["exact"]
        for sentence in score_sentences(guess, truth.original_batches[0], world.data.dataset.tokenizer).sentences
    ]
