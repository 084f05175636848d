"""Does Feature CutMix hide images, or only from an attacker who does not simulate it?

Two MNIST digits a client, an untrained convolutional network without dropout, one exact gradient; one box an example,
behind the first or the second convolution. `fedavg-inversion` runs the plain model; `cutmix-inversion` pastes maps in
the simulated model, once with boxes and partners searched, once with them granted; the labels are known to all. Plain
training is the control. Only batches whose maps were mixed count. Where a map was pasted over and pasted nowhere, its
image leaves nothing to find: beside the PSNR to whole originals stands that over the pixels in use, behind which some
map was used. Rows are medians over victims of the means of their two images; five victims, with ``--full`` twenty.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

from collections.abc import Iterator, Mapping, Sequence  # noqa: E402
from itertools import product  # noqa: E402
from statistics import mean  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks._rows import Row, as_they_come, main, measured  # noqa: E402
from fedsim.core import registry, seeding  # noqa: E402
from fedsim.core.boxes import inside  # noqa: E402
from fedsim.core.examples import distinct  # noqa: E402
from fedsim.core.types import Draws, InputSpec, Knowledge, Reconstruction, Truth, WireEntry  # noqa: E402
from fedsim.federation.client import local_training  # noqa: E402
from fedsim.metrics.image import score_items, to_pixels  # noqa: E402
from fedsim.scenario import parse  # noqa: E402
from fedsim.scenario.world import World, build  # noqa: E402
from fedsim.threat.observe import observe  # noqa: E402
from fedsim.threat.victim import Victim  # noqa: E402

CLIENTS, ITERATIONS = 80, 400
PLACES = {"first": ("1", (28, 28)), "second": ("3", (14, 14))}
CONTROL = 30.0
_LEAST, _MOST = 0.1, 0.9  # share of the own map in a batch that counts as mixed
_KNOWN: tuple[Knowledge, ...] = ("batch-size", "components", "dropout-rates", "input-statistics", "labels")
_PACE = {"max_iterations": ITERATIONS, "schedule": "cosine", "sign": "soft", "restarts": 2}


class Recovered(NamedTuple):
    """What an attack found of one victim, means over its images.

    Attributes:
        whole: PSNR to the originals, in dB.
        used: the same over the pixels behind which a map was used.
        share: of such pixels.
    """

    whole: float
    used: float
    share: float


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
        component = {"name": "feature-cutmix", "at": at, "size": size, "probability": 1.0, "per_sample": True}
        components.append(component)
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


def attacked(place: str | None, attacker: Attacker, victims: int, iterations: int = ITERATIONS) -> list[Recovered]:
    """Return what the attacker finds of each victim."""
    world, outcomes, method = world_of(place), list[Recovered](), registry.get("attack", attacker.attack)
    attack = method.make(method.config.model_validate({**_PACE, "max_iterations": iterations}))
    for client in range(CLIENTS):
        received = world.models.first_weights
        update, truth = local_training(world, received, 1, client)
        if place is not None and not _is_mixed(truth.draws[0]):
            continue
        seen = observe(Victim(world, WireEntry(1, client, received, update), truth), (*_KNOWN, *attacker.also_knows))
        guess = attack(seen, seeding.generator(client, "attack"))
        outcomes.append(_scored(guess, truth, world.data.dataset.spec, place))
        if len(outcomes) == victims:
            return outcomes
    raise RuntimeError(f"{CLIENTS} clients have {len(outcomes)} mixed batches, expected {victims}")


def _scored(guess: Reconstruction, truth: Truth, spec: InputSpec, place: str | None) -> Recovered:
    originals = distinct(truth.private)
    scored = score_items(guess, originals, spec)
    pixels, true = to_pixels(guess.inputs, spec)[scored.order], to_pixels(originals.inputs, spec)
    used = torch.ones(len(true), *spec.shape[1:], dtype=torch.bool)
    if place is not None:
        used = used_pixels(truth.draws[0], PLACES[place][1], spec.shape[-1])
    errors = [(ours - theirs)[:, where].square().mean() for ours, theirs, where in zip(pixels, true, used, strict=True)]
    whole, part = [item.values["psnr"] for item in scored.items], [-10.0 * float(error.log10()) for error in errors]
    return Recovered(mean(whole), mean(part), float(used.double().mean()))


def used_pixels(draws: Draws, size: tuple[int, int], side: int) -> Tensor:
    """Return behind which pixels (B, side, side) some map's entry was used, in its own image's or in its partner's."""
    pasted = inside(draws["feature-cutmix.map-boxes"], *size)
    used = ~pasted
    for row, partner in enumerate(draws["feature-cutmix.partners"].tolist()):
        used[partner] |= pasted[row]
    return used.repeat_interleave(side // size[0], 1).repeat_interleave(side // size[1], 2)


def _is_mixed(draws: Draws) -> bool:
    """Say whether both examples gave up between a tenth and nine tenths of their map."""
    shares = draws["feature-cutmix.weights"]
    return draws["feature-cutmix.partners"].tolist() == [1, 0] and bool(((shares > _LEAST) & (shares < _MOST)).all())


def measure(full: bool) -> Sequence[Row]:
    """Return all rows."""
    return as_they_come(_rows(20 if full else 5))


def _rows(victims: int) -> Iterator[Row]:
    setting = f"convnet, 2 digits, {ITERATIONS} iterations, 2 starts"
    control = [outcome.whole for outcome in attacked(None, PLAIN, victims)]
    yield measured("plain training (control)", setting, control, "dB", f">= {CONTROL:g}")
    for place, (words, attacker) in product(PLACES, ATTACKERS.items()):
        name, outcomes = f"behind the {place} convolution, {words}", attacked(place, attacker, victims)
        yield measured(f"{name}: whole images", setting, [outcome.whole for outcome in outcomes], "dB", "")
        yield measured(f"{name}: pixels in use", setting, [outcome.used for outcome in outcomes], "dB", "")
        if attacker is PLAIN:
            shares = [100.0 * outcome.share for outcome in outcomes]
            yield measured(f"behind the {place} convolution: share of pixels in use", setting, shares, "%", "")


if __name__ == "__main__":
    main(measure, __doc__ or "")
