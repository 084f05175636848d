"""The control of normalised residual networks: second-order steps that begin near the image, in either precision.

It tells whether the steps, the rounding of the update or the start is what keeps such a network's images back.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from attacks.core.client_gradient import client_gradient
from benchmarks._budget import EXACT, are_exact, items_of, worst_psnr
from benchmarks._experiments import Cells
from benchmarks._frontier_cases import RESNET, SMALL
from benchmarks._frontier_table import ceiling_row
from benchmarks._rows import Row, measured, share
from benchmarks._victims import Victim, observed_victims, victims_of
from fedsim.core import registry, seeding
from fedsim.core.types import Reconstruction
from fedsim.record import ItemScore

_VICTIMS = 5
_NEAR = 0.2  # standard deviation of the noise on the image, in normalised units
_WIDTHS = (4, 8)
_MODEL = {"name": RESNET, "width": 4, "activation": "silu"}


def control_cells() -> Cells:
    """Return the cells of the control."""
    words = "gauss-newton, ResNet-18 of width 4, SiLU, digits, B = 1"
    steps = {
        precision: f"control, {words}, {precision} precision, from noise of {_NEAR:g} on the image"
        for precision in ("double", "single")
    }
    return {
        **{setting: partial(_rows, setting, precision) for precision, setting in steps.items()},
        **{f"control, rounding, width {width}": partial(_rounding, width) for width in _WIDTHS},
    }


def _rounding(width: int) -> Iterator[Row]:
    (victim,) = observed_victims(SMALL, {**_MODEL, "width": width}, 1)
    yield ceiling_row(victim, f"control, rounding, ResNet-18 of width {width}, SiLU, digits, B = 1, single precision")


def _rows(setting: str, precision: str) -> Iterator[Row]:
    starts, ends = [], []
    for number, victim in enumerate(victims_of(SMALL, _MODEL, _VICTIMS)):
        seen = sent_in_double(victim) if precision == "double" else victim
        start = _near(seen, number)
        method = registry.get("attack", "gauss-newton")
        attack = method.make(method.config())
        source = seeding.generator(1, "attack", number)
        starts.append(_items(start, seen))
        ends.append(_items(attack.continue_from(seen.observation, start, source, lambda _step: None), seen))
    yield share(EXACT, setting, [float(are_exact(items)) for items in ends])
    yield measured("PSNR of the start", setting, [worst_psnr(items) for items in starts], "dB", "")
    yield measured("PSNR of the end", setting, [worst_psnr(items) for items in ends], "dB", "")


def sent_in_double(victim: Victim) -> Victim:
    """Return the update as a client would send it that computes in double precision and has no dropout."""
    seen = replace(victim.observation, model=copy.deepcopy(victim.observation.model).double())
    gradient = client_gradient(seen, victim.batch.inputs, victim.batch.labels, None)
    update = replace(seen.update, tensors={name: gradient[name] for name in seen.update.tensors})
    return replace(victim, observation=replace(seen, update=update))


def _near(victim: Victim, number: int) -> Reconstruction:
    generator = seeding.generator(1, "start", number)
    inputs = victim.batch.inputs
    return Reconstruction.of(inputs + _NEAR * torch.randn(inputs.shape, generator=generator), victim.batch.labels)


def _items(guess: Reconstruction, victim: Victim) -> tuple[ItemScore, ...]:
    return items_of(replace(guess, inputs=guess.inputs.float()), victim)
