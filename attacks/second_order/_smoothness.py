"""Test whether a gradient is a smooth function of the inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from attacks.core.labels import blank_labels
from attacks.core.layers import once_a_model
from attacks.core.tolerances import TINY
from attacks.second_order._client import Client
from attacks.second_order._derivatives import Function, push_all_forward
from attacks.second_order._layout import UnknownsLayout
from fedsim.core.types import Observation

_STEPS = tuple(0.1 / 4**number for number in range(5))  # normalised units; the first crosses kinks of all layers
_DIRECTIONS = 3  # each from its own point: on a single line, kinks may become rare by chance as if it were smooth
# Relative change of a slope: smaller changes do not mislead a step. Where only a derivative jumps, as with ELU, slopes
# change less.
_SHARE = 0.03
# A quartered step divides the change of a slope by 16, by 4 where a derivative jumps, by 1 where the gradient does; 2
# separates the last two. It divides by 256 at most, if the third derivative vanishes; if the shortest step misses the
# last jump, by far more. The first step may be too long to be divided at all, if a network bends much.
_LEAST, _MOST = 2.0, 256.0


@once_a_model
def refuse_kinks(observation: Observation) -> str | None:
    """Return why Newton steps are meaningless for this model, or None, from slopes at shrinking step sizes.

    For a smooth function, the slope (g(x + h d) - g(x - h d)) / 2h differs from the derivative along d by a multiple of
    h^2, for any curvature. Where units switch on and off, their contributions jump: a quarter of the step crosses a
    quarter of the jumps, and after division by the step they have the same weight, until no jump is left.
    """
    gradient, points, directions = _lines(observation)
    try:
        push_all_forward(gradient, points[0], directions[:1])
    except (NotImplementedError, RuntimeError) as error:
        return f"the gradient has no derivative in many directions at once (vmap): {str(error).splitlines()[0]}"
    with torch.no_grad():
        is_smooth = all(_settle(list(_slopes(gradient, *line))) for line in zip(points, directions, strict=True))
    return None if is_smooth else "the gradient is no smooth function of the inputs, as with ReLU or maximum pooling"


def _lines(observation: Observation) -> tuple[Function, Tensor, Tensor]:
    """Return the gradient as a function of the pixels (n,), and points and directions, each of shape (3, n)."""
    client, generator = Client(observation), torch.Generator().manual_seed(0)
    masks = tuple(torch.ones(site.shape, dtype=torch.float64) for site in observation.sites)
    unknowns = UnknownsLayout(observation, (masks,) * observation.local_steps)
    (part,) = unknowns.split(1)
    labels = blank_labels(observation, unknowns.examples).to(client.device)

    def gradient(point: Tensor) -> Tensor:
        inputs, point_masks = part.unpack(point, unknowns.shape)
        return client.gradient(inputs, labels, point_masks)

    values = torch.randn((2, _DIRECTIONS, unknowns.pixels), generator=generator, dtype=torch.float64)
    points, directions = values.to(client.device)
    return gradient, points, directions


def _slopes(gradient: Function, point: Tensor, direction: Tensor) -> Iterator[Tensor]:
    """Yield the gradient's change over a step, divided by the step, from the longest step to the shortest."""
    for step in _STEPS:
        yield (gradient(point + step * direction) - gradient(point - step * direction)) / (2.0 * step)


def _settle(slopes: Sequence[Tensor]) -> bool:
    """Return whether slopes converge like a smooth function's."""
    changes = [float((slope - short).norm() / short.norm().clamp_min(TINY)) for slope, short in pairwise(slopes)]
    falls = list(pairwise(changes))
    is_jump_left_out = any(before > max(_SHARE, _MOST * after) for before, after in falls)
    return not is_jump_left_out and all(after <= max(_SHARE, before / _LEAST) for before, after in falls[1:])
