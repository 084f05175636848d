"""What does a component cost a client in time?

A client's local training with and without it, several steps of a batch each, in the same run. Passes alternate; a
ratio is of medians. A component adds a function to `MEASURED` that yields its rows.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

from collections.abc import Callable, Iterator  # noqa: E402
from functools import partial  # noqa: E402
from typing import Any  # noqa: E402

from benchmarks._passes import alternating, ratio  # noqa: E402
from benchmarks._rows import Row, as_they_come, main  # noqa: E402
from fedsim.federation.client import local_training  # noqa: E402
from fedsim.scenario import parse  # noqa: E402
from fedsim.scenario.world import World, build  # noqa: E402

STEPS, BATCH, CLIENTS = 5, 32, 4
MLP = {"data": {"name": "mnist5k"}, "model": {"name": "mlp", "dropout": 0.0}}
RESNET = {"data": {"name": "mnist5k", "size": 32}, "model": {"name": "resnet18", "dropout": 0.5}}
LENET = {"data": {"name": "mnist5k", "size": 32}, "model": {"name": "lenet", "dropout": 0.0}}


def _few(passes: int) -> int:
    """Return how many passes a large model takes."""
    return max(3, passes // 8)


def client(component: dict[str, Any] | None, **tables: Any) -> Callable[[int], None]:
    """Return one client's round, to be called with the pass's number.

    Args:
        component: the table of a component, or None for the plain client.
        tables: of the scenario: data and model, and what else differs.
    """
    federation = {"algorithm": "fedavg", "clients": CLIENTS, "local_steps": STEPS, "batch_size": BATCH}
    components = [] if component is None else [component]
    raw = {"title": "a client's round", "federation": federation, "components": components, **tables}
    world = build(parse(raw, "benchmark"))
    world.check()
    return partial(_train, world)


def beside_plain(component: dict[str, Any], setting: str, must: str, passes: int, **tables: Any) -> Row:
    """Return the row of a component's time over the plain client's."""
    with_it, plain = alternating([client(component, **tables), client(None, **tables)], passes)
    name = f"{component['name']} / none: a client's round"
    return ratio(name, f"{setting}, {STEPS} steps of {BATCH}", with_it, plain, must)


def cutmix(passes: int) -> Iterator[Row]:
    """CutMix on every batch, with one box and with a box an image."""
    for model, tables, count in (("MLP", MLP, passes), ("LeNet", LENET, passes), ("ResNet-18", RESNET, _few(passes))):
        for per_sample in (False, True):
            component = {"name": "cutmix", "probability": 1.0, "per_sample": per_sample}
            setting = f"{model}, {'a box an image' if per_sample else 'one box'}"
            yield beside_plain(component, setting, "<= 1.05", count, **tables)


def multi_sample_dropout(passes: int) -> Iterator[Row]:
    """Eight samples of every example behind the last dropout layer."""
    component = {"name": "multi-sample-dropout", "samples": 8}
    yield beside_plain(component, "ResNet-18", "<= 1.25", _few(passes), **RESNET)


def nested_dropout(passes: int) -> Iterator[Row]:
    """A prefix of the last features; the network of the paper first."""
    component = {"name": "nested-dropout", "eta": 10.0}
    yield beside_plain(component, "ResNet-18", "<= 1.05", _few(passes), **RESNET)
    for model, tables in (("MLP", MLP), ("LeNet", LENET)):
        yield beside_plain(component, model, "<= 1.05", passes, **tables)


MEASURED: tuple[Callable[[int], Iterator[Row]], ...] = (cutmix, multi_sample_dropout, nested_dropout)


def measure(full: bool) -> list[Row]:
    """Return all rows; the long version takes more passes."""
    return as_they_come(row for part in MEASURED for row in part(150 if full else 40))


def _train(world: World, number: int) -> None:
    local_training(world, world.models.first_weights, 1 + number // CLIENTS, number % CLIENTS)


if __name__ == "__main__":
    main(measure, __doc__ or "")
