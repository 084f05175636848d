"""What a gradient says of a question that nobody grants, and what that costs an attack on the image.

Clients send the gradient of one image and its question to a tiny VLM. `question-readout` reads the words off the
embedding's rows, and their order by comparing all of them; `closed-form-vit` solves for the image once with what was
inferred and once with what is granted. Where the encoder is frozen it refuses: there the order that is nearest at a
grey image is a guess, the order at the true image is the control that must succeed, and beside them stands who knows
which questions there are, as the server's own test set shows them. A random order of the right words is right once in
72 or 120 times. Without --full 20 clients an arm.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

from collections.abc import Iterator, Mapping, Sequence  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402

from attacks.combined.question_readout import (  # noqa: E402
    QuestionReadout,
    QuestionReadoutConfig,
    QuestionText,
    nearest,
    orders_of,
)
from benchmarks._rows import Row, main, measured, of_interval  # noqa: E402
from fedsim.bench import grids  # noqa: E402
from fedsim.core import registry, seeding  # noqa: E402
from fedsim.core.types import Knowledge, WireEntry  # noqa: E402
from fedsim.federation.client import local_training  # noqa: E402
from fedsim.metrics.statistics import wilson  # noqa: E402
from fedsim.record import Interval, VictimRecord  # noqa: E402
from fedsim.scenario import parse  # noqa: E402
from fedsim.scenario import world as worlds  # noqa: E402
from fedsim.scenario.world import World  # noqa: E402
from fedsim.threat.observe import observe  # noqa: E402
from fedsim.threat.scoring import score  # noqa: E402
from fedsim.threat.victim import Victim  # noqa: E402

CLIENTS, SHORT = 60, 20
WITHHELD: tuple[Knowledge, ...] = ("batch-size", "components", "input-statistics")
GRANTED: tuple[Knowledge, ...] = (*WITHHELD, "labels", "given")
ARMS: Mapping[str, tuple[bool, Mapping[str, Any]]] = {
    "first weights, all tokens": (False, {"name": "keep-all"}),
    "trained, all tokens": (True, {"name": "keep-all"}),
    "trained, 16 by class token": (True, {"name": "cls-topk", "kept": 16}),
}
ENCODER = ("patches.*", "class_token", "positions", "encoder*")
_CONFIG = QuestionReadoutConfig(attack="closed-form-vit")


def world_of(*components: Mapping[str, Any], is_trained: bool, clients: int) -> World:
    """Return clients of one image each."""
    raw: dict[str, Any] = {
        "title": "inferred questions",
        "seed": 21,
        "data": {"name": "digit-grids", "train": 10 * clients, "test": 500},
        "model": {"name": "tiny-vlm", "trained": is_trained},
        "components": list(map(dict, components)),
        "federation": {"clients": clients, "batch_size": 1},
        "threat": {"knows": list(WITHHELD)},
    }
    world = worlds.build(parse(raw, "benchmark"))
    world.check()
    return world


def sent_by(world: World, client: int) -> Victim:
    """Return a client's first update beside its truth."""
    received = world.models.first_weights
    update, truth = local_training(world, received, 1, client)
    return Victim(world, WireEntry(1, client, received, update), truth)


def found_in(victim: Victim) -> tuple[VictimRecord, VictimRecord]:
    """Return what comes out of an update where question and answer are inferred, and where they are granted."""
    solve = registry.get("attack", "closed-form-vit")
    ways = (
        (QuestionReadout(_CONFIG), WITHHELD),
        (solve.make(solve.config()), GRANTED),
    )
    inferred, granted = (
        score(victim, attack(observe(victim, knows), seeding.generator(0, "attack"))).record for attack, knows in ways
    )
    return inferred, granted


def solved_rows(label: str, world: World, clients: int) -> Iterator[Row]:
    """Yield how many questions and answers are inferred, and the images' PSNR with them and with granted ones."""
    pairs = [found_in(sent_by(world, client)) for client in range(clients)]
    for name in ("questions read", "answers read"):
        yield _share(name, label, wilson(sum(inferred.extras[name] == 1 for inferred, _ in pairs), clients))
    for number, name in enumerate(("inferred", "granted")):
        values = [pair[number].scores[0].values["psnr"] for pair in pairs]
        yield measured(f"PSNR of the image, question and answer {name}", label, values, "dB", "")


def frozen_rows(label: str, world: World, clients: int) -> Iterator[Row]:
    """Yield how many questions and answers are inferred where the image is not found, and where it is known."""
    right: dict[str, list[tuple[bool, bool]]] = {"grey image": [], "true image (control)": [], "public questions": []}
    spoken = set(map(tuple, world.data.dataset.test.given["question"].tolist()))
    orders = list[float]()
    for client in range(clients):
        victim = sent_by(world, client)
        seen = observe(victim, WITHHELD)
        texts = orders_of(seen, _CONFIG)
        orders.append(len(texts))
        image = victim.truth.batches[0].inputs
        for name, shown in zip(right, (torch.full_like(image, _CONFIG.brightness), image), strict=False):
            right[name].append(_compared(nearest(seen, texts, shown), victim))
        known = [text for text in texts if text.question in spoken]
        right["public questions"].append(_compared(known[0], victim) if len(known) == 1 else (False, False))
    for name, flags in right.items():
        yield _share("questions read", f"{label}, {name}", wilson(sum(one for one, _ in flags), clients))
        yield _share("answers read", f"{label}, {name}", wilson(sum(one for _, one in flags), clients))
    yield measured("orders of the words", label, orders, "", "")


def _share(name: str, setting: str, right: Interval) -> Row:
    return of_interval(name, setting, right, "%", 100)


def _compared(text: QuestionText, victim: Victim) -> tuple[bool, bool]:
    """Say whether a question and its answer are those of a victim."""
    batch = victim.truth.batches[0]
    said: Sequence[int] = batch.labels[0][batch.labels[0] >= 0].tolist()[:-1]
    return text.question == tuple(batch.given["question"][0].tolist()), text.answer == tuple(said)


def measure(full: bool) -> list[Row]:
    """Return all rows."""
    grids.trained()
    clients = CLIENTS if full else SHORT
    rows = list[Row]()
    for label, (is_trained, component) in ARMS.items():
        rows += solved_rows(label, world_of(component, is_trained=is_trained, clients=clients), clients)
    freeze = {"name": "freeze", "parameters": list(ENCODER)}
    for label, component in (("all tokens", {"name": "keep-all"}), ("16 by class token", ARMS[[*ARMS][2]][1])):
        world = world_of(freeze, component, is_trained=True, clients=clients)
        rows += frozen_rows(f"trained, encoder frozen, {label}", world, clients)
    return rows


if __name__ == "__main__":
    main(measure, __doc__ or "")
