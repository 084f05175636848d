"""What a gradient says of a question that nobody grants, and what that costs an attack on the image.

Clients send the gradient of one image and its question to a tiny VLM. `question-readout` reads the words off the
embedding's rows, and their order by comparing all of them; `closed-form-vit` solves for the image once with what was
inferred and once with what is granted. Where the encoder is frozen it refuses: there the order that is nearest at a
grey image is a guess, the order at the true image is the control that must succeed, and beside them stands who knows
which questions there are, as the server's own test set shows them. A random order of the right words is right once in
72 or 120 times. Without --full 20 clients an arm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from attacks.combined.question_readout import (
    QuestionReadout,
    QuestionReadoutConfig,
    QuestionText,
    nearest,
    orders_of,
)
from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, median_row, share
from benchmarks._victims import make_attack, send_update, world_of
from fedsim.bench import grids
from fedsim.core import seeding
from fedsim.core.types import Knowledge
from fedsim.record import VictimRecord
from fedsim.scenario.world import World
from fedsim.threat.observe import observe
from fedsim.threat.scoring import score
from fedsim.threat.victim import Victim

CLIENTS, SHORT = 60, 20
WITHHELD: tuple[Knowledge, ...] = ("batch-size", "components", "input-statistics")
GRANTED: tuple[Knowledge, ...] = (*WITHHELD, "labels", "extra-inputs")
ARMS: Mapping[str, tuple[bool, Mapping[str, Any]]] = {
    "first weights, all tokens": (False, {"name": "keep-all"}),
    "trained, all tokens": (True, {"name": "keep-all"}),
    "trained, 16 by class token": (True, {"name": "cls-topk", "kept": 16}),
}
ENCODER = ("patches.*", "class_token", "positions", "encoder*")
_FROZEN: Mapping[str, Mapping[str, Any]] = {
    "all tokens": {"name": "keep-all"},
    "16 by class token": {"name": "cls-topk", "kept": 16},
}
_CONFIG = QuestionReadoutConfig(attack="closed-form-vit")


def federation_of(*components: Mapping[str, Any], is_trained: bool, clients: int) -> World:
    """Return clients of one image each."""
    world = world_of(
        {
            "seed": 21,
            "data": {"name": "digit-grids", "train": 10 * clients, "test": 500},
            "model": {"name": "tiny-vlm", "trained": is_trained},
            "components": list(map(dict, components)),
            "federation": {"clients": clients, "batch_size": 1},
            "threat": {"knows": list(WITHHELD)},
        }
    )
    world.check()
    return world


def found_in(victim: Victim) -> tuple[VictimRecord, VictimRecord]:
    """Return what comes out of an update where question and answer are inferred, and where they are granted."""
    ways = ((QuestionReadout(_CONFIG), WITHHELD), (make_attack("closed-form-vit"), GRANTED))
    inferred, granted = (
        score(victim, attack(observe(victim, knows), seeding.generator(0, "attack"))).record for attack, knows in ways
    )
    return inferred, granted


def solved_rows(label: str, world: World, clients: int) -> Iterator[Row]:
    """Yield how many questions and answers are inferred, and the images' PSNR with them and with granted ones."""
    pairs = [found_in(send_update(world, client)) for client in range(clients)]
    for name in ("questions_read", "answers_read"):
        yield share(name.replace("_", " "), label, [float(inferred.values[name] == 1) for inferred, _ in pairs])
    for number, name in enumerate(("inferred", "granted")):
        values = [pair[number].scores[0].values["psnr"] for pair in pairs]
        yield median_row(f"PSNR of the image, question and answer {name}", label, values, "dB", "")


def frozen_rows(label: str, world: World, clients: int) -> Iterator[Row]:
    """Yield how many questions and answers are inferred where the image is not found, and where it is known."""
    right: dict[str, list[tuple[bool, bool]]] = {"grey image": [], "true image (control)": [], "public questions": []}
    spoken = set(map(tuple, world.data.dataset.test.extra_inputs["question"].tolist()))
    orders = list[float]()
    for client in range(clients):
        victim = send_update(world, client)
        seen = observe(victim, WITHHELD)
        texts = orders_of(seen, _CONFIG)
        orders.append(len(texts))
        image = victim.truth.batches[0].inputs
        for name, shown in zip(right, (torch.full_like(image, _CONFIG.brightness), image), strict=False):
            right[name].append(_compare_text(nearest(seen, texts, shown), victim))
        known = [text for text in texts if text.question in spoken]
        right["public questions"].append(_compare_text(known[0], victim) if len(known) == 1 else (False, False))
    for name, flags in right.items():
        yield share("questions read", f"{label}, {name}", [float(one) for one, _ in flags])
        yield share("answers read", f"{label}, {name}", [float(one) for _, one in flags])
    yield median_row("orders of the words", label, orders, "", "")


def _compare_text(text: QuestionText, victim: Victim) -> tuple[bool, bool]:
    """Say whether a question and its answer are those of a victim."""
    batch = victim.truth.batches[0]
    said: Sequence[int] = batch.labels[0][batch.labels[0] >= 0].tolist()[:-1]
    return text.question == tuple(batch.extra_inputs["question"][0].tolist()), text.answer == tuple(said)


@experiment("inferred-questions", minutes=10, page="attacks/question-readout")
def inferred_questions(budget: Budget) -> Cells:
    """Return a cell for each arm."""
    clients = CLIENTS if budget.full else SHORT
    solved = {label: partial(_component_rows, label, *arm, clients) for label, arm in ARMS.items()}
    frozen = {
        f"trained, encoder frozen, {label}": partial(_frozen, f"trained, encoder frozen, {label}", component, clients)
        for label, component in _FROZEN.items()
    }
    return {**solved, **frozen}


def _component_rows(label: str, is_trained: bool, component: Mapping[str, Any], clients: int) -> Iterator[Row]:
    grids.load_trained_model()
    yield from solved_rows(label, federation_of(component, is_trained=is_trained, clients=clients), clients)


def _frozen(label: str, component: Mapping[str, Any], clients: int) -> Iterator[Row]:
    grids.load_trained_model()
    freeze = {"name": "freeze", "parameters": list(ENCODER)}
    yield from frozen_rows(label, federation_of(freeze, component, is_trained=True, clients=clients), clients)
