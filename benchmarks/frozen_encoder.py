"""What dropped visual tokens hide where clients freeze the vision encoder: the ideal attacker's count, and an attack.

    python -m benchmarks.frozen_encoder [--clients 2] [--attack ARM] [--iterations 80]

A small vision-language model of 16 patches (28 x 28 pixels) with first weights sends the gradient of one image and its
question, of projector and language model alone. The ideal attacker counts how many of the 784 pixels' directions the
update holds, and says how well anybody could know the image, to first order at the truth, who knows mean and variance
of pixels. The encoder norms a feature vector of 64 numbers, so a token that is kept in front of the language
model says at most 63. With --attack, `gauss-newton` searches the clients' images, with question and answer granted; all
tokens are the control that must succeed. Under a minute of processor time an arm; an attack takes several.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import argparse  # noqa: E402
from collections.abc import Mapping  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402

from benchmarks._rows import Row, as_line, as_table, measured  # noqa: E402
from fedsim.core import registry, seeding  # noqa: E402
from fedsim.core.errors import NotApplicable  # noqa: E402
from fedsim.core.types import Knowledge, WireEntry  # noqa: E402
from fedsim.federation.client import local_training  # noqa: E402
from fedsim.metrics.image import to_pixels  # noqa: E402
from fedsim.scenario import parse  # noqa: E402
from fedsim.scenario import world as worlds  # noqa: E402
from fedsim.scenario.world import World  # noqa: E402
from fedsim.threat.ceiling import ceiling_of  # noqa: E402
from fedsim.threat.observe import observe  # noqa: E402
from fedsim.threat.victim import Victim  # noqa: E402

ENCODER = ("patches.*", "class_token", "positions", "encoder*")
SIZES = {"encoder_width": 64, "encoder_hidden": 64, "encoder_blocks": 2, "width": 32, "hidden": 32, "blocks": 3}
_MERGED = {"name": "must-drop", "overall": 0.0, "single": 0.0, "layers": [1], "recount": False}
ARMS: Mapping[str, Mapping[str, Any]] = {
    "all 16": {"name": "keep-all"},
    "8 by attention, behind layer 0": {"name": "attention-topk", "kept": 8, "layer": 0},
    "4 windows merged": {**_MERGED, "likeness": -1.0},
    "8 random": {"name": "random-tokens", "kept": 8},
    "4 random": {"name": "random-tokens", "kept": 4},
    "1 random": {"name": "random-tokens", "kept": 1},
}
_KNOWN: tuple[Knowledge, ...] = ("batch-size", "labels", "given", "components", "input-statistics")
_ITERATIONS = 80


def world_of(arm: str, sizes: Mapping[str, int] = SIZES) -> World:
    """Return clients that train all but the encoder, with the reducer of an arm."""
    raw: dict[str, Any] = {
        "title": "frozen encoder",
        "seed": 62,
        "data": {"name": "digit-grids", "cells": 2, "fewest": 1, "most": 3, "train": 80, "test": 20},
        "model": {"name": "tiny-vlm", **sizes},
        "components": [{"name": "freeze", "parameters": list(ENCODER)}, dict(ARMS[arm])],
        "federation": {"clients": 10, "batch_size": 1},
        "threat": {"knows": list(_KNOWN)},
    }
    world = worlds.build(parse(raw, "benchmark"))
    world.check()
    return world


def sent_by(world: World, client: int) -> Victim:
    """Return a client's first update beside its truth."""
    received = world.models.first_weights
    update, truth = local_training(world, received, 1, client)
    return Victim(world, WireEntry(1, client, received, update), truth)


def counted(arm: str, clients: int) -> list[Row]:
    """Return how many directions of pixels updates hold, and what the ideal attacker reaches."""
    world = world_of(arm)
    ceilings_of_clients = [ceiling_of(sent_by(world, client)).ceiling for client in range(clients)]
    ranks, ceilings = [each.rank for each in ceilings_of_clients], [each.psnr for each in ceilings_of_clients]
    return [
        measured(name, arm, [float(one) for one in values if one is not None], unit, "")
        for name, values, unit in (("directions of 784", ranks, ""), ("ceiling", ceilings, "dB"))
    ]


def blind() -> Row:
    """Return what the best guess comes to of who knows mean and variance of pixels alone."""
    data = world_of("all 16").data.dataset
    variance = to_pixels(data.train.inputs, data.spec).var(correction=0)
    return measured("ceiling", "no update", [-10 * float(variance.log10())], "dB", "")


def searched(arm: str, iterations: int, client: int) -> list[Row]:
    """Return what `gauss-newton` makes of one client's update, and its ceiling.

    Raises:
        NotApplicable: the attack refuses, with the reason.
    """
    victim, method = sent_by(world_of(arm), client), registry.get("attack", "gauss-newton")
    attack = method.make(method.config.model_validate({"max_iterations": iterations, "restarts": 1}))
    seen = observe(victim, _KNOWN)
    guess = attack(seen, seeding.generator(0, "attack"))
    world = victim.world
    (item,) = world.task.score(victim.truth, victim.examples, guess, world.data.dataset).items
    exact = "explains the update up to rounding" if guess.is_exact else "does not explain the update"
    words = f"{arm}, client {client}: {exact}; {guess.iterations} iterations, {guess.stopped}"
    ceiling = ceiling_of(victim).ceiling.psnr
    assert ceiling is not None, "a smaller model fits in memory"
    return [
        measured("gauss-newton, PSNR", words, [item.values["psnr"]], "dB", ""),
        measured("ceiling", f"{arm}, client {client}", [ceiling], "dB", ""),
    ]


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=2, help="how many clients' updates are looked at")
    parser.add_argument("--attack", choices=list(ARMS), help="search the images of an arm's clients instead")
    parser.add_argument("--iterations", type=int, default=_ITERATIONS, help="most steps of the attack")
    chosen = parser.parse_args()
    if chosen.attack:
        for client in range(chosen.clients):
            try:
                print(as_table(searched(chosen.attack, chosen.iterations, client)), flush=True)
            except NotApplicable as reason:
                print(f"{chosen.attack}, client {client}: gauss-newton refuses: {reason}")
        return
    print(as_table([blind()]))
    for arm in ARMS:
        print("\n".join(map(as_line, counted(arm, chosen.clients))), flush=True)


if __name__ == "__main__":
    main()
