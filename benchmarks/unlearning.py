"""What forgetting an image gives away: models, or a client's updates, before and after, read as an update.

Eight clients hold 25 digits each; a server steps along the mean gradient, on all examples, from weights that it chose.
One client asks that one of its digits be forgotten. Forgetting is one step of gradient ascent on the digit, or exact:
the federation is trained again from its first weights, without the digit. The server sees the global models alone, or
each client's update of the first round too. From two means of n and n - 1 gradients follows the one that is missing:
n g - (n - 1) g'. After T rounds the same is done with the mean steps of both trainings, which is exact for T = 1 alone.
Attacks get that vector as a gradient of one example, its label and the model. Beside it two controls: the client's
ordinary update, attacked alike, and the vector of another digit that is forgotten, judged by one that stays. A digit
counts as identified if it is the nearest of all 200 to the guess (chance 0.005), as exact if every pixel is within half
of 1/255. Units are
digits, each in a federation that forgets nothing else. ``--full``: 20 digits, not 10.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, share
from benchmarks._victims import make_attack, try_attack, world_of
from fedsim.core.nets.gradients import gradient_of
from fedsim.core.types import Batch, Knowledge, Tensors, Truth, Update, WireEntry
from fedsim.metrics.image import exact_pixels, to_pixels
from fedsim.scenario.world import World
from fedsim.threat.observe import observe
from fedsim.threat.victim import Victim

_CLIENTS, _EACH, _RATE = 8, 25, 0.1
_ROUNDS = (1, 5, 25, 100)
_KNOWN: tuple[Knowledge, ...] = ("labels", "batch-size", "input-statistics")
_ATTACKS: Mapping[str, Mapping[str, int]] = {
    "closed-form-linear": {},
    "inverting-gradients": {"max_iterations": 500, "restarts": 1},
}


class Seen(NamedTuple):
    """A vector that is attacked as the gradient of one example, and the weights that it is taken at."""

    setting: str
    gradient: Tensors
    weights: Tensors


def federation() -> World:
    """Return eight clients with 25 digits each, and an untrained network."""
    tables = {
        "seed": 5,
        "data": {"name": "mnist5k", "train": _CLIENTS * _EACH},
        "model": {"name": "mlp", "width": 64, "depth": 2, "dropout": 0.0, "bias": True},
        "federation": {"clients": _CLIENTS, "batch_size": 1},
    }
    return world_of(tables)


def gradient(world: World, weights: Tensors, examples: Batch) -> dict[str, Tensor]:
    """Return the mean gradient of examples at some weights."""
    model = world.models.load_weights(weights)
    return gradient_of(world.stack.loss(1)(model(examples.inputs), examples.labels), world.models.parameters)


def train_rounds(world: World, examples: Batch, rounds: int) -> dict[str, Tensor]:
    """Return the weights after so many rounds on these examples: the mean over clients is that over examples."""
    weights = {name: weight.clone() for name, weight in world.models.first_weights.items()}
    for _ in range(rounds):
        weights = {n: weights[n] - _RATE * g for n, g in gradient(world, weights, examples).items()}
    return weights


def removed_gradient(whole: Tensors, rest: Tensors, n: int) -> dict[str, Tensor]:
    """Return the gradient that a mean of n has and a mean of the n - 1 others has not: n g - (n - 1) g'."""
    return {name: n * whole[name] - (n - 1) * rest[name] for name in whole}


def without(examples: Batch, number: int) -> Batch:
    """Return the examples but one."""
    return examples.select(torch.tensor([other for other in range(len(examples)) if other != number]))


def vectors(world: World, number: int, after: Mapping[int, Tensors]) -> Iterator[Seen]:
    """Yield what the server works out about digit `number` where it is forgotten.

    Args:
        world: the federation.
        number: of the digit, among all.
        after: weights by rounds, of the training with the digit.
    """
    every, first = world.data.dataset.train, world.models.first_weights
    client = next(share for share in world.data.shares if number in share.tolist())
    examples, inside = every.select(client), client.tolist().index(number)
    whole, rest = gradient(world, first, examples), gradient(world, first, without(examples, inside))
    last = after[max(_ROUNDS)]
    yield Seen("ordinary update of 25 digits (control)", whole, first)
    yield Seen("ascent step after 100 rounds", gradient(world, last, every.select(torch.tensor([number]))), last)
    yield Seen("updates of round 1, with and without", removed_gradient(whole, rest, _EACH), first)
    stays = inside - 1 if inside else 1
    other = gradient(world, first, without(examples, stays))
    yield Seen("updates of round 1, another digit forgotten (control)", removed_gradient(whole, other, _EACH), first)
    for rounds in _ROUNDS:
        retrained = train_rounds(world, without(every, number), rounds)
        both, one = ({n: (first[n] - end[n]) / (_RATE * rounds) for n in whole} for end in (after[rounds], retrained))
        yield Seen(
            f"global models after {rounds} rounds",
            removed_gradient(both, one, len(every)),
            first if rounds == 1 else retrained,
        )


def attack_digit(world: World, seen: Seen, number: int, name: str) -> Tensor | None:
    """Return the guess for digit `number`, normalised; None where the attack gives none."""
    chosen = world.data.dataset.train.select(torch.tensor([number]))
    update = Update("gradient", seen.gradient, {}, 1, 0.0)
    truth = Truth((chosen,), ((),), update, (chosen,), ({},))
    observation = observe(Victim(world, WireEntry(1, 0, seen.weights, update), truth), _KNOWN)
    guess, _ = try_attack(make_attack(name, **_ATTACKS[name]), observation, 1, "attack", number)
    return guess.inputs[0] if guess is not None and len(guess.inputs) else None


def judge_digit(world: World, guess: Tensor | None, number: int) -> tuple[float, float]:
    """Return whether the digit is the nearest of all to a guess, and whether it is there exactly."""
    if guess is None:
        return 0.0, 0.0
    digits, spec = world.data.dataset.train.inputs, world.data.dataset.spec
    nearest = int((digits - guess).square().flatten(1).sum(1).argmin())
    is_exact = exact_pixels(to_pixels(guess[None], spec), to_pixels(digits[number][None], spec))
    return float(nearest == number), float(is_exact)


@experiment("unlearning", minutes=2, page="attacks/unlearning")
def unlearning(budget: Budget) -> Cells:
    """Return the one cell, since all settings share their trainings."""
    return {"forgotten digits": partial(_rows, 20 if budget.full else 10)}


def _rows(digits: int) -> Iterator[Row]:
    """Yield the shares of forgotten digits that are identified and that are exact, by setting and attack."""
    world = federation()
    every = world.data.dataset.train
    after = {rounds: train_rounds(world, every, rounds) for rounds in _ROUNDS}
    by_setting: dict[tuple[str, str], list[tuple[float, float]]] = {}
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(0))
    for number in order[:digits].tolist():
        for seen in vectors(world, number, after):
            for name in _ATTACKS:
                judgement = judge_digit(world, attack_digit(world, seen, number, name), number)
                by_setting.setdefault((seen.setting, name), []).append(judgement)
    for (setting, name), judgements in by_setting.items():
        for place, what in enumerate(("identified", "exact")):
            yield share(what, f"{setting}, {name}", [pair[place] for pair in judgements])
