"""Run the page's grid of settings once with the real attacks: frames, curves, masks and scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import get_args

import torch
from torch import Tensor

from fedsim.core import seeding
from fedsim.core.errors import FedsimError
from fedsim.core.nets.masks import dropout_sites
from fedsim.core.types import Config, InputSpec, Observation, Reconstruction, Step, Truth
from fedsim.demo.pictures import bits, strip
from fedsim.demo.victim import (
    Attacker,
    Pictures,
    Protection,
    Setting,
    attack_of,
    granted_knowledge,
    label_names,
    name_of,
    observe_client,
    world_of,
)
from fedsim.metrics.identification import gallery, identify_guesses
from fedsim.metrics.image import PSNR_CAP, psnr, score_items, to_pixels
from fedsim.metrics.masks import identifiable, mask_accuracy, score_masks
from fedsim.metrics.missing import complete, fill
from fedsim.scenario.world import World

_CURVE_POINTS = 40
ATTACKERS: tuple[Attacker, ...] = get_args(Attacker)


class RecordedGrid(Config):
    """Grid of settings, all combinations of which are recorded; noise applies to a single protection.

    Attributes:
        frames: iterations at which the guess is kept, ascending. The last is the attack's result.
    """

    pictures: Pictures = "digits"
    rates: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75)
    batches: tuple[int, ...] = (1, 2, 4)
    noises: tuple[float, ...] = (1.0, 10.0, 100.0)
    protections: tuple[Protection, ...] = get_args(Protection)
    attackers: tuple[Attacker, ...] = ATTACKERS
    frames: tuple[int, ...] = (1, 8, 15, 25, 40, 60, 90, 130, 200)

    def settings(self) -> tuple[Setting, ...]:
        """Return all settings of the client."""
        return tuple(
            Setting(rate=rate, batch=batch, protection=protection, noise=noise)
            for rate, batch, protection in product(self.rates, self.batches, self.protections)
            for noise in (self.noises if protection == "noise" else self.noises[:1])
        )


class RecordedAttack(Config):
    """Result of an attack on a gradient.

    Attributes:
        strip: base64 picture, a row per frame, a column per image in the order of the originals; empty without a guess.
        frames: rows of the strip. An attack that stopped early has fewer than the grid; the last row is its result.
        iterations: iterations of the points of both curves.
        objective: value of the matching objective, without unit; None for NaN.
        mean_psnr: in dB, mean over the images of the batch.
        psnr: in dB, of the result, per image.
        identified: whether the result identifies the image among a thousand others, per image.
        masks: estimated dropout masks, hexadecimal text per image; empty without an estimate.
        agreement: share of correct mask entries, over units with an observable mask.
        used: number of iterations until the result.
        stopped: why the attack ended.
        failure: reason for a missing guess.
    """

    strip: str = ""
    frames: int = 0
    iterations: tuple[int, ...] = ()
    objective: tuple[float | None, ...] = ()
    mean_psnr: tuple[float, ...] = ()
    psnr: tuple[float, ...] = ()
    identified: tuple[bool, ...] = ()
    masks: tuple[str, ...] = ()
    agreement: float | None = None
    used: int = 0
    stopped: str = ""
    failure: str = ""


class Scene(Config):
    """A client's gradient and every attack on it.

    Attributes:
        masks: the client's dropout masks, hexadecimal text per image; empty without dropout.
        layers: (name, Euclidean norm) of every parameter's gradient as sent.
        unit: PNG, the largest gradient among the first layer's units, from black (smallest) to white.
        runs: runs by attacker.
    """

    setting: Setting
    masks: tuple[str, ...]
    layers: tuple[tuple[str, float], ...]
    unit: str
    runs: dict[Attacker, RecordedAttack]


class Recording(Config):
    """The recorded scenes of a set of pictures.

    Attributes:
        originals: the largest batch, in a row; smaller batches are its first images.
        labels: names of the originals' classes.
        units: number of units with dropout per image, by layer.
        attacks: name for `fedsim show`, by attacker and then batch size (as text).
        grants: knowledge of each attacker.
    """

    grid: RecordedGrid
    side: int
    originals: str
    labels: tuple[str, ...]
    units: tuple[int, ...]
    attacks: dict[Attacker, dict[str, str]]
    grants: dict[Attacker, tuple[str, ...]]
    scenes: tuple[Scene, ...]


def recording_of(grid: RecordedGrid, scenes: Sequence[Scene]) -> Recording:
    """Return the recording of a grid; the scenes are in the order of the grid's settings.

    Raises:
        FedsimError: the pictures are not installed.
    """
    world = world_of(Setting(batch=max(grid.batches), rate=max(grid.rates)), grid.pictures)
    batch = next(world.data.batches(1, 0))
    return Recording(
        grid=grid,
        side=world.data.dataset.spec.shape[-1],
        originals=strip(to_pixels(batch.inputs, world.data.dataset.spec)[None]),
        labels=label_names(grid.pictures, batch.labels),
        units=tuple(math.prod(site.shape[1:]) for site in world.models.sites),
        attacks={name: {str(size): name_of(name, size) for size in grid.batches} for name in grid.attackers},
        grants={name: granted_knowledge(name) for name in grid.attackers},
        scenes=tuple(scenes),
    )


def scene_of(setting: Setting, grid: RecordedGrid) -> Scene:
    """Compute a client's gradient, and run every attacker on it."""
    world = world_of(setting, grid.pictures)
    runs: dict[Attacker, RecordedAttack] = {}
    for attacker in grid.attackers:
        observation, truth = observe_client(world, attacker)
        if setting.rate == 0 and attacker in ("estimates", "knows") and "ignores" in runs:
            runs[attacker] = runs["ignores"]  # without dropout all three searches are the same
            continue
        runs[attacker] = _run(world, observation, truth, attacker, grid)
    observation, truth = observe_client(world, "ignores")
    tensors = observation.update.tensors
    first = next(tensor for tensor in tensors.values() if tensor.ndim > 1)
    strongest = first[first.norm(dim=1).argmax()].reshape(1, 1, *world.data.dataset.spec.shape)
    low, high = strongest.min(), strongest.max()
    return Scene(
        setting=setting,
        masks=_encode_masks(truth.masks[0], setting.batch),
        layers=tuple((name, _short(float(tensor.norm()))) for name, tensor in tensors.items()),
        unit=strip((strongest - low) / (high - low).clamp_min(1e-30)),
        runs=runs,
    )


def _run(
    world: World, observation: Observation, truth: Truth, attacker: Attacker, grid: RecordedGrid
) -> RecordedAttack:
    attack = attack_of(attacker, world.scenario.federation.batch_size, grid.frames[-1])
    steps: list[Step] = []
    generator = seeding.generator(world.scenario.seed, f"demo {attacker}")
    try:
        reconstruction = attack(
            observation, generator, lambda step: steps.append(replace(step, guess=step.guess.clone()))
        )
    except FedsimError as error:
        return RecordedAttack(failure=str(error))
    spec, originals = world.data.dataset.spec, truth.original_batches[0]
    reconstruction = complete(reconstruction, len(originals))
    items, order = score_items(reconstruction, originals, spec)
    steps = steps[: reconstruction.iterations] or [
        Step(0, 1, 1, reconstruction.objective, reconstruction.objective, reconstruction.inputs)
    ]
    shown = [step for step in steps if step.iteration in grid.frames[:-1]]
    if shown and len(shown) < len(grid.frames) - 1 and shown[-1].iteration == steps[-1].iteration:
        shown.pop()
    guesses = torch.stack(
        [*(_pixels(step.guess, order, spec) for step in shown), _pixels(reconstruction.inputs, order, spec)]
    )
    points = steps[:: max(1, len(steps) // _CURVE_POINTS)]
    target = to_pixels(originals.inputs, spec)
    return RecordedAttack(
        strip=strip(guesses),
        frames=len(guesses),
        iterations=tuple(step.iteration for step in points),
        objective=tuple(_short(step.objective) if math.isfinite(step.objective) else None for step in points),
        mean_psnr=tuple(_mean_psnr(_pixels(step.guess, order, spec), target) for step in points),
        psnr=tuple(round(min(item.values["psnr"], PSNR_CAP), 1) for item in items),
        identified=_identify_images(guesses[-1], target, world),
        masks=_encode_masks(
            tuple(mask.round() for mask in reconstruction.masks or ()), world.scenario.federation.batch_size, order
        ),
        agreement=agreement(world, reconstruction, truth, order),
        used=reconstruction.iterations,
        stopped=reconstruction.stop_reason,
    )


def _pixels(guess: Tensor, order: Tensor, spec: InputSpec) -> Tensor:
    return to_pixels(fill(guess.detach(), len(order), torch.nan)[order], spec)


def _identify_images(guesses: Tensor, originals: Tensor, world: World) -> tuple[bool, ...]:
    public = gallery(world.data.dataset)
    return () if public is None else tuple(map(bool, identify_guesses(guesses, originals, public).tolist()))


def _mean_psnr(pixels: Tensor, target: Tensor) -> float:
    return round(float(psnr(pixels, target).mean()), 1)


def _encode_masks(masks: Sequence[Tensor], batch: int, order: Tensor | None = None) -> tuple[str, ...]:
    if not masks:
        return ()
    order = torch.arange(batch) if order is None else order
    return tuple(bits(torch.cat([mask[image].flatten() for mask in masks])) for image in order.tolist())


def agreement(world: World, reconstruction: Reconstruction, truth: Truth, order: Tensor) -> float | None:
    """Return the share of right mask entries, over all units that show in the gradient."""
    if reconstruction.masks is None or not world.models.sites:
        return None
    batch, masks = truth.batches[0], truth.masks[0]
    model = world.models.load_weights(world.models.first_weights)
    sites = dropout_sites(model, world.data.dataset.spec.shape, len(batch))
    relevant = identifiable(model, batch, sites, masks, world.stack.loss(1))
    return mask_accuracy(score_masks(sites, reconstruction.masks, masks, relevant, order))


def _short(value: float) -> float:
    """Return the value rounded to three significant digits, enough for a page."""
    return float(f"{value:.3g}")
