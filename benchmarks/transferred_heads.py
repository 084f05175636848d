"""head-inversion behind trained backbones of convolutions, blocks and attention, beside three other guesses.

Clients train a head of two layers behind a frozen backbone: one that nobody trained, or one that learnt from images
that no attacked client holds. Each attacked client sends the gradient of 8 images. Beside the attack stand the same
search from the true features of every image (granted: what inversion loses, and isolation does not), the image next to
those features among those that the backbone learnt from (look-up), and the mean of the server's images.

An image is undecided where it is not identified and the search for it ended before its features were reached. Intervals
are over updates. A missing guess counts as 0 dB. Without ``--full``: LeNet, 2 updates. CIFAR-10 is the pack or folder
that FEDSIM_CIFAR10 names; the first run trains the backbones, once, and keeps them in the cache.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from attacks.core.feature_inversion import STEPS
from attacks.malicious_server.head_inversion import follow_features, read_features, single_features
from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, interval_row, median_row, share
from benchmarks._victims import DIGITS, KNOWN, kept_weights, send_update, trained_weights, world_of
from benchmarks.realism import GROUP_NORM, LENET, SMALL_VIT, Network, locate_dataset
from benchmarks.trained_victims import accuracy
from fedsim.core import seeding
from fedsim.core.types import Observation, Reconstruction, Tensors
from fedsim.federation.client import refusal
from fedsim.metrics.statistics import median_interval
from fedsim.record import ItemScore
from fedsim.scenario.world import World
from fedsim.threat.observe import observe
from fedsim.threat.victim import Victim

_DIGITS = LENET._replace(words="LeNet, ReLU, MNIST digits", data=DIGITS, examples=4000)
_CLIENTS, _SHORT = 10, 2
_OWNS = 100  # images of a client
_BATCH = 8
_LOOKED_UP = 3000  # images at most
_SAME = 1e-3  # of how far features lie apart: rounding is far below
_REACHED = 1e-3  # of the features' size: nearer ones show no difference that a person sees


class Case(NamedTuple):
    """A network that is "fresh" or "trained", the updates that are attacked, and the most steps to an image."""

    network: Network
    state: str
    updates: int
    steps: int = STEPS


_CASES = (
    Case(_DIGITS, "fresh", _CLIENTS),
    Case(_DIGITS, "trained", _CLIENTS),
    Case(SMALL_VIT, "fresh", _CLIENTS),
    Case(SMALL_VIT, "trained", _CLIENTS),
    Case(GROUP_NORM, "fresh", 5),  # many steps lead back through residuals, and each takes long
    Case(GROUP_NORM, "trained", 5),
    Case(GROUP_NORM, "trained", 3, 100),
)


class Place(NamedTuple):
    """A backbone in the hands of clients, and what the server has.

    Attributes:
        words: for people.
        world: clients whose head the server wrote.
        honest: the same with a head as it comes, where clients look at what they receive.
        known_images: images that the backbone learns from, (N, *shape).
        accuracy: of the backbone with the head that it learnt.
        steps: of the search for an image, at most.
    """

    words: str
    world: World
    honest: World
    known_images: Tensor
    accuracy: float
    steps: int = STEPS


class Seen(NamedTuple):
    """One client's update, attacked.

    Attributes:
        isolation_flags: whether the attack has the features of each image, (B,).
        strange: features that it takes for an image's, and that are no image's.
        items: the scores of each image, by the name of the guess.
        undecided_counts: images that no search decides, by the name of the search.
        seconds: of a processor, for the attack.
    """

    isolation_flags: Tensor
    strange: int
    items: Mapping[str, Sequence[ItemScore]]
    undecided_counts: Mapping[str, int]
    seconds: float


@experiment("transferred-heads", minutes=3, page="attacks/head-inversion")
def transferred_heads(budget: Budget) -> Cells:
    """Return a cell for each network and its training."""
    cases = _CASES if budget.full else [case._replace(updates=_SHORT) for case in _CASES[:2]]
    return {f"{case.network.words}, {case.state}, {case.steps} steps": partial(rows_of, case) for case in cases}


def rows_of(case: Case) -> Iterator[Row]:
    """Yield the rows of a case."""
    place = place_of(case.network, case.state)
    if case.steps != STEPS:
        place = place._replace(words=f"{place.words}, {case.steps} steps", steps=case.steps)
    clients = case.updates
    seen = list(_attack_clients(place, clients))
    words = place.words
    yield Row("accuracy", words, place.accuracy, "share")
    yield share("images isolated", words, [update.isolation_flags.double().mean().item() for update in seen])
    yield share("features that are no image's", words, [update.strange / _BATCH for update in seen])
    for guess in seen[0].items:
        items = [update.items[guess] for update in seen]
        right = [[item.values["identified"] for item in items_of_update] for items_of_update in items]
        psnr = [[item.values["psnr"] for item in items_of_update] for items_of_update in items]
        yield share("images identified", f"{guess}, {words}", [sum(flags) / len(flags) for flags in right])
        yield interval_row("PSNR, median", f"{guess}, {words}", median_interval(psnr, np.random.default_rng(0)), "dB")
    for search in seen[0].undecided_counts:
        yield share(
            "images undecided", f"{search}, {words}", [update.undecided_counts[search] / _BATCH for update in seen]
        )
    yield median_row("processor seconds an update", words, [update.seconds for update in seen], "s")
    yield from _refusals(place, clients)


def _refusals(place: Place, clients: int) -> Iterator[Row]:
    """Yield how many clients with the check refuse the head that the server wrote, and the head as it comes."""
    for head, source in (("crafted", place.world), ("honest", place.honest)):
        received = source.models.first_weights
        reasons = [refusal(place.honest, received, 1, client, {}) for client in range(clients)]
        note = next(filter(None, reasons), "")
        flags = [float(bool(reason)) for reason in reasons]
        yield share("clients that refuse", f"{head} head, {place.words}", flags, note=note)


def place_of(network: Network, state: str) -> Place:
    """Return clients behind a backbone, whose `steps` are taken on images that no attacked client holds."""
    plain = _tables(network)
    bare = world_of(plain)
    shares = [bare.data.shares[client] for client in range(bare.scenario.federation.clients)]
    among = torch.cat(shares[_CLIENTS:])
    weights = bare.models.first_weights
    model = plain["model"]
    if state == "trained":
        description = [{**plain, "data": dict(network.data)}, network.steps, _CLIENTS]
        learnt = kept_weights("backbone", description, lambda: trained_weights(bare, network.steps, among))
        weights = torch.load(learnt, weights_only=True)
        kept = kept_weights("transferred", description, lambda: _replace_head(plain, weights))
        model = {**model, "checkpoint": str(kept)}
    right = accuracy(bare, weights)
    headed = {**plain, "model": model, "components": [{"name": "transfer-head"}]}
    crafted = {**headed, "threat": {"server": "malicious"}, "attacks": [{"name": "head-inversion"}]}
    words = f"{network.words}, {state}"
    known = bare.data.dataset.train.inputs.index_select(0, among[:_LOOKED_UP])
    honest = world_of({**headed, "defenses": [{"name": "server-check"}]})
    return Place(words, world_of(crafted), honest, known, right)


def _replace_head(plain: dict[str, Any], learnt: Tensors) -> Tensors:
    """Return weights of a model with a new head, all else as it was learnt."""
    first = world_of({**plain, "components": [{"name": "transfer-head"}]}).models.first_weights
    return {**first, **{name: tensor for name, tensor in learnt.items() if name in first}}


def _tables(network: Network) -> dict[str, Any]:
    return {
        "title": "benchmark",
        "seed": 5,
        "data": locate_dataset(network.data),
        "model": {**network.model, "dropout": 0.0},
        "federation": {"clients": network.examples // _OWNS, "batch_size": _BATCH},
    }


def _attack_clients(place: Place, clients: int) -> Iterator[Seen]:
    features: Tensor | None = None
    for client in range(clients):
        victim = send_update(place.world, client)
        observation = observe(victim, KNOWN)
        features = read_features(observation, place.known_images) if features is None else features
        yield _attack_update(victim, observation, place, features)


def _attack_update(victim: Victim, observation: Observation, place: Place, features: Tensor) -> Seen:
    """Run the attack in its two halves, and the guesses beside it.

    What is granted of an image whose features the attack has would be searched for twice: its guess stands for both.
    """
    images = victim.examples.inputs
    begin = time.process_time()
    singles, _ = single_features(observation, seeding.generator(1, "attack"))
    followed, apart = _follow_features(observation, singles.examples, images, place.steps)
    seconds = time.process_time() - begin
    true = read_features(observation, images)
    spread = (true - true.mean(0)).norm(dim=1).median()
    pairs = _pairs(true, singles.examples) <= _SAME * spread
    isolated = pairs.any(1)
    granted, its_apart = _follow_features(observation, true[~isolated], images, place.steps)
    which = pairs.double().argmax(1)[isolated] if len(followed) else torch.empty(0, dtype=torch.long)
    whole, whole_apart = images.double(), its_apart.new_zeros(len(images))
    whole[isolated], whole[~isolated] = followed[which], granted
    whole_apart[isolated], whole_apart[~isolated] = apart[which], its_apart
    public = victim.world.data.public.mean(0).expand_as(images)
    guesses = {
        "head-inversion": (followed, apart),
        "granted": (whole, whole_apart),
        "look-up": (place.known_images[_pairs(true, features).argmin(1)], None),
        "mean image": (public, None),
    }
    items, undecided = {}, {}
    for name, (guess, distance) in guesses.items():
        items[name], order = _score_images(victim, guess)
        if distance is not None:
            undecided[name] = _count_undecided(items[name], order, distance)
    return Seen(isolated, int((~pairs.any(0)).sum()), items, undecided, seconds)


def _follow_features(observation: Observation, features: Tensor, like: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    if not len(features):
        return like[:0].double(), like.new_zeros(0, dtype=torch.float64)
    return follow_features(observation, features, steps)


def _pairs(some: Tensor, others: Tensor) -> Tensor:
    """Return how far some features (N, D) are from others, (N, M)."""
    return torch.cdist(some, others.view(-1, some.shape[1]))


def _score_images(victim: Victim, guess: Tensor) -> tuple[tuple[ItemScore, ...], Tensor]:
    """Return the scores of each image, and which guess stands beside it; missing ones are the last."""
    made = Reconstruction.of(guess.to(victim.examples.inputs.dtype), victim.examples.labels[:1].expand(len(guess)))
    scored = victim.world.task.score(victim.truth, victim.examples, made, victim.world.data.dataset)
    assert scored.order is not None
    return cast("tuple[ItemScore, ...]", scored.items), scored.order


def _count_undecided(items: Sequence[ItemScore], order: Tensor, apart: Tensor) -> int:
    """Return how many images are not identified though there is a search for them, which did not end."""
    pairs = zip(items, order.tolist(), strict=True)
    return sum(
        not item.values["identified"] and guess < len(apart) and float(apart[guess]) > _REACHED for item, guess in pairs
    )
