"""Does Feature CutMix hide images, or only from an attacker who does not simulate it?

Two MNIST digits a client, an untrained convolutional network without dropout, one exact gradient; one box an example,
behind the first or the second convolution. `fedavg-inversion` runs the plain model; `cutmix-inversion` pastes maps in
the simulated model, once with boxes and partners searched, once with them granted; the labels are known to all. Plain
training is the control. Only batches whose maps were mixed count. A row's value is the median over victims of the mean
PSNR to their originals; five victims, with ``--full`` twenty.
"""

from __future__ import annotations

from fedsim import process

process.prepare()

import sys  # noqa: E402
from collections.abc import Iterator, Mapping, Sequence  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

import torch  # noqa: E402

from benchmarks._rows import Row, as_line, main, measured  # noqa: E402
from fedsim import registry, seeding  # noqa: E402
from fedsim.client import local_training  # noqa: E402
from fedsim.examples import distinct  # noqa: E402
from fedsim.metrics.image import score_items  # noqa: E402
from fedsim.observe import observe  # noqa: E402
from fedsim.scenario import parse  # noqa: E402
from fedsim.types import Draws, Knowledge, WireEntry  # noqa: E402
from fedsim.world import World, build  # noqa: E402

CLIENTS, ITERATIONS = 80, 400
PLACES = {"first": ("1", (28, 28)), "second": ("3", (14, 14))}
CONTROL = 30.0
_LEAST, _MOST = 0.1, 0.9  # share of the own map in a batch that counts as mixed
_KNOWN: tuple[Knowledge, ...] = ("batch-size", "components", "dropout-rates", "input-statistics", "labels")
_PACE = {"iterations": ITERATIONS, "schedule": "cosine", "sign": "soft", "trials": 2}


class Attacker(NamedTuple):
    """An attack, and what it is granted beyond what all are."""

    attack: str
    also_knows: tuple[Knowledge, ...] = ()


PLAIN = Attacker("fedavg-inversion")
ATTACKERS: Mapping[str, Attacker] = {
    "knows nothing of it": PLAIN,
    "boxes searched": Attacker("cutmix-inversion"),
    "boxes granted": Attacker("cutmix-inversion", ("draws",)),
}


def world_of(place: str | None) -> World:
    """Return clients with two digits each."""
    components: list[dict[str, Any]] = []
    if place is not None:
        at, size = PLACES[place]
        own = {"name": "feature-cutmix", "at": at, "size": size, "probability": 1.0, "per_sample": True}
        components.append(own)
    raw: dict[str, Any] = {
        "title": "feature cutmix",
        "seed": 5,
        "data": {"name": "mnist5k"},
        "model": {"name": "convnet", "dropout": 0.0},
        "partition": {"scheme": "resampled", "examples_per_client": 2},
        "components": components,
        "federation": {"clients": CLIENTS, "batch_size": 2},
    }
    world = build(parse(raw, "benchmark"))
    world.check()
    return world


def decibels(place: str | None, attacker: Attacker, victims: int, iterations: int = ITERATIONS) -> list[float]:
    """Return each victim's mean PSNR over its images, against the originals."""
    world, found, method = world_of(place), list[float](), registry.get("attack", attacker.attack)
    attack = method.make(method.config.model_validate({**_PACE, "iterations": iterations}))
    for client in range(CLIENTS):
        received = world.first_weights
        update, truth = local_training(world, received, 1, client)
        if place is not None and not _is_mixed(truth.draws[0]):
            continue
        seen = observe(world, WireEntry(1, client, received, update), truth, (*_KNOWN, *attacker.also_knows))
        guess = attack(seen, seeding.generator(client, "attack"))
        items = score_items(guess, distinct(truth.private), world.dataset.spec).items
        found.append(sum(item.psnr for item in items) / len(items))
        if len(found) == victims:
            return found
    raise RuntimeError(f"{CLIENTS} clients have {len(found)} mixed batches, expected {victims}")


def _is_mixed(draws: Draws) -> bool:
    """Say whether both examples gave up between a tenth and nine tenths of their map."""
    shares = draws["feature-cutmix.weights"]
    return draws["feature-cutmix.partners"].tolist() == [1, 0] and bool(((shares > _LEAST) & (shares < _MOST)).all())


def measure(full: bool) -> Sequence[Row]:
    """Return all rows."""
    torch.set_num_threads(1)
    rows: list[Row] = []
    for row in _rows(20 if full else 5):
        print(as_line(row), file=sys.stderr, flush=True)
        rows.append(row)
    return rows


def _rows(victims: int) -> Iterator[Row]:
    setting = f"convnet, 2 digits, {ITERATIONS} iterations, 2 starts"
    yield measured("plain training (control)", setting, decibels(None, PLAIN, victims), "dB", f">= {CONTROL:g}")
    for place in PLACES:
        for words, attacker in ATTACKERS.items():
            name = f"Feature CutMix behind the {place} convolution, {words}"
            yield measured(name, setting, decibels(place, attacker, victims), "dB", "")


if __name__ == "__main__":
    main(measure, __doc__ or "")
