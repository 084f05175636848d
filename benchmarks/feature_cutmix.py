"""Does Feature CutMix hide images, or only from an attacker who does not simulate it?

Two MNIST digits a client, an untrained convolutional network without dropout, one exact gradient; one box an example,
behind the first or the second convolution. Gradient matching as in `fedavg-inversion` (cosine distance, total
variation, Adam on signs, a falling step), once by an attacker who runs the plain model with the records' own labels,
once by one who is told all that was drawn and runs the client's own forward pass; the labels are known to both. Plain
training is the control. Only batches whose images were mixed count. A row's value is the median over victims; five
victims, with ``--full`` twenty.
"""

from __future__ import annotations

from fedsim import process

process.prepare()

import sys  # noqa: E402
from collections.abc import Iterator, Sequence  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks._rows import Row, as_line, main, measured  # noqa: E402
from fedsim import seeding  # noqa: E402
from fedsim.client import local_training  # noqa: E402
from fedsim.losses import cross_entropy  # noqa: E402
from fedsim.metrics.image import psnr, to_pixels  # noqa: E402
from fedsim.scenario import parse  # noqa: E402
from fedsim.showing import Showing  # noqa: E402
from fedsim.types import Draws, Tensors  # noqa: E402
from fedsim.world import World, build  # noqa: E402

CLIENTS, ITERATIONS, STEP, SMOOTHNESS = 80, 400, 0.1, 1e-4
PLACES = {"first": ("1", (28, 28)), "second": ("3", (14, 14))}
CONTROL = 30.0
_LEAST, _MOST = 0.1, 0.9  # share of the own map in a batch that counts as mixed


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


def inverted(world: World, gradient: Tensors, labels: Tensor, draws: Draws, iterations: int, seed: int) -> Tensor:
    """Return the inputs whose gradient, in a forward pass that finds these draws, points where the client's does."""
    model, spec = world.model_with(world.first_weights), world.dataset.spec
    parameters = list(world.parameters.values())
    target = torch.cat([gradient[name].flatten() for name in world.parameters])
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (spec.mean, spec.std))
    inputs = torch.randn(len(labels), *spec.shape, generator=seeding.generator(seed, "dummy")).requires_grad_()
    optimizer = torch.optim.Adam([inputs], lr=STEP)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    for _ in range(iterations):
        with Showing(draws):
            loss = cross_entropy(model(inputs), labels)
        ours = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, create_graph=True)])
        distance = 1.0 - torch.cosine_similarity(ours, target, 0)
        rough = inputs.diff(dim=-1).abs().mean() + inputs.diff(dim=-2).abs().mean()
        (slope,) = torch.autograd.grad(distance + SMOOTHNESS * rough, inputs)
        inputs.grad = slope.sign()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            inputs.copy_(inputs.clamp(-mean / std, (1.0 - mean) / std))
    return inputs.detach()


def decibels(place: str | None, victims: int, *, told: bool, iterations: int = ITERATIONS) -> list[float]:
    """Return each victim's mean PSNR over its images, against the originals in their order."""
    world, found = world_of(place), list[float]()
    for client in range(CLIENTS):
        update, truth = local_training(world, world.first_weights, 1, client)
        (private,), (trained,), (draws,) = truth.private, truth.batches, truth.draws
        if place is not None and not _is_mixed(draws):
            continue
        labels = trained.labels if told else private.labels
        guess = inverted(world, update.tensors, labels, draws if told else {}, iterations, client)
        spec = world.dataset.spec
        found.append(float(psnr(to_pixels(guess, spec), to_pixels(private.inputs, spec)).mean()))
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
    setting = f"convnet, 2 digits, {ITERATIONS} iterations"
    yield measured("plain training (control)", setting, decibels(None, victims, told=False), "dB", f">= {CONTROL:g}")
    for place in PLACES:
        for told in (False, True):
            name = f"Feature CutMix behind the {place} convolution, {'told the draws' if told else 'told nothing'}"
            yield measured(name, setting, decibels(place, victims, told=told), "dB", "")


if __name__ == "__main__":
    main(measure, __doc__ or "")
