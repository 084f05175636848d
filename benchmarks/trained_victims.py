"""Exact attacks on victims of a training: what comes back of a batch, round by round, while losses vanish.

A federation of ten clients trains; at some rounds each client's gradient is attacked, at the weights of that round.
Labels are inferred, masks unknown; seconds are those of one core. An update counts as honest if every returned image is
right, each pixel within half of 1/255, and at least one is returned.
Settings of means hold their 95 % interval by bootstrap over updates.
Without ``--full``: the multilayer perceptron through dropout. With it: more rounds, a perceptron without dropout and a
vision transformer (about half an hour).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._passes import timed
from benchmarks._rows import Row, mean_row, median_row, share
from benchmarks._victims import DIGITS, Victim, make_attack, seen_of, send_update, world_of
from fedsim.core import seeding
from fedsim.core.types import Reconstruction, Tensors
from fedsim.federation.client import local_training
from fedsim.metrics.image import HALF_STEP
from fedsim.scenario.world import World

_CLIENTS = 10
_MOMENTUM = 0.9


class Case(NamedTuple):
    """A victim's training, and the attack on it."""

    words: str
    model: Mapping[str, Any]
    attack: str
    batch_size: int
    rate: float
    rounds: Sequence[int]
    must: str = ""
    seconds: str = ""


SHORT = (0, 150, 400, 1200)
CASES = (
    Case(
        "MLP without bias, p = 0.5",
        {"name": "mlp", "dropout": 0.5},
        "sparse-dictionary",
        16,
        0.05,
        (0, 100, 150, 200, 400, 800, 1200),
        ">= 0.9",
        "< 10",
    ),
    Case("MLP without bias, p = 0", {"name": "mlp", "dropout": 0.0}, "span-intersection", 16, 0.05, (0, 100, 200, 400)),
    Case("small ViT, p = 0.25", {"name": "vit-small", "patch": 7}, "closed-form-vit", 1, 0.01, (0, 100, 400)),
)


def train_over_rounds(world: World, rate: float, rounds: Sequence[int]) -> Iterator[tuple[int, Tensors]]:
    """Yield the weights after some rounds of a server that steps with momentum along the mean gradient."""
    weights = {name: tensor.clone() for name, tensor in world.models.first_weights.items()}
    velocity: dict[str, Tensor] = {}
    for round_ in range(max(rounds) + 1):
        if round_ in rounds:
            yield round_, weights
        sent = [local_training(world, weights, round_ + 1, client)[0].tensors for client in range(_CLIENTS)]
        for name in sent[0]:
            mean = torch.stack([update[name] for update in sent]).mean(0)
            velocity[name] = _MOMENTUM * velocity.get(name, torch.zeros_like(mean)) + mean
        weights = {n: w - rate * velocity[n] if n in velocity else w for n, w in weights.items()}


@torch.no_grad()
def accuracy(world: World, weights: Tensors) -> float:
    """Return the share of test examples that are told right."""
    model, test = world.models.load_weights(weights).eval(), world.data.dataset.test
    right = float((model(test.inputs).argmax(1) == test.labels).double().mean())
    model.train()
    return right


def count_recovered(guess: Reconstruction, seen: Victim) -> tuple[int, int]:
    """Return how many true images came back, and how many returned ones are none."""
    if not len(guess.inputs):
        return 0, 0
    scale = seen.spec.std[0]
    true, guesses = (scale * x.double().flatten(1) for x in (seen.batch.inputs, guess.inputs))
    near = torch.cdist(true, guesses, p=torch.inf) <= HALF_STEP
    return int(near.any(1).sum()), int((~near.any(0)).sum())


def _rows(case: Case, rounds: Sequence[int]) -> Iterator[Row]:
    federation = {"clients": _CLIENTS, "batch_size": case.batch_size}
    world = world_of({"seed": 5, "data": dict(DIGITS), "model": dict(case.model), "federation": federation})
    attack = make_attack(case.attack)
    for round_, weights in train_over_rounds(world, case.rate, rounds):
        honest, whole, shares, wrong, seconds = [], [], [], [], []
        for client in range(_CLIENTS):
            seen = seen_of(send_update(world, client, weights, round_ + 1))
            guess, taken = timed(partial(attack, seen.observation, seeding.generator(1, "attack", client)))
            seconds.append(taken)
            right, false = count_recovered(guess, seen)
            honest.append(float(right > 0 and not false))
            whole.append(float(guess.is_exact and not false))
            shares.append(right / len(seen.batch))
            wrong.append(false / len(seen.batch))
        setting = f"{case.attack}, {case.words}, B = {case.batch_size}, round {round_}"
        must = case.must if round_ else ""
        yield Row("accuracy", setting, accuracy(world, weights), "share", n=len(world.data.dataset.test))
        yield share("updates exact or honestly partial", setting, honest, must)
        yield share("updates whose gradient is explained exactly", setting, whole)
        yield mean_row("images that come back", setting, shares, "share")
        yield mean_row("images returned that are wrong", setting, wrong, "share")
        yield median_row("processor seconds an update", setting, seconds, "s", case.seconds)


@experiment("trained-victims", minutes=4, page="attacks/exact-frontier")
def trained_victims(budget: Budget) -> Cells:
    """Return a cell for each training."""
    cases = CASES if budget.full else CASES[:1]
    return {case.words: partial(_rows, case, case.rounds if budget.full else SHORT) for case in cases}
