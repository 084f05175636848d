"""Switches of a ReLU network near a guess: units far from their kink keep their switch at the guess."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from attacks.second_order._layout import masks_to_solve
from attacks.second_order._switches import unit_values
from fedsim.core.nets.masks import expected_mask
from fedsim.core.types import Masks, Observation


class Pattern(NamedTuple):
    """Masks and switches of a network, one per site.

    Attributes:
        masks: NaN at entries to be solved for.
        start: start of these entries; other entries are ignored.
    """

    masks: Masks
    start: Masks


def pattern_near(
    observation: Observation,
    smooth: Observation,
    switches: Sequence[int],
    inputs: Tensor,
    guessed: Masks | None,
    margin: float,
) -> Pattern:
    """Fix the switches of units that are further from their kink than a margin, at their values for a guess.

    Args:
        observation: observation of the model with its ReLUs.
        smooth: the same with switches in place of ReLUs.
        switches: indices of the sites that are switches.
        inputs: the guess, shape (B, *shape).
        guessed: dropout masks of the guess, one per site of `observation`, or None.
        margin: in units of the root mean square of a ReLU's input.
    """
    read = masks_to_solve(smooth)[0]
    likely = [expected_mask(site) for site in observation.sites] if guessed is None else list(guessed)
    known = [mask for index, mask in enumerate(read) if index not in switches]
    likely = [
        torch.where(mask.isnan(), likely_mask.to(mask), mask) for mask, likely_mask in zip(known, likely, strict=True)
    ]
    values = iter(unit_values(observation, inputs, tuple(likely)))
    unread = iter(likely)
    masks, start = list(read), [mask.nan_to_num() for mask in read]
    for index, mask in enumerate(read):
        if index not in switches:
            start[index] = next(unread)
            continue
        value = next(values).view(mask.shape)
        start[index] = (value > 0).to(mask)
        is_far = value.abs() > margin * value.square().mean().sqrt()
        masks[index] = torch.where(mask.isnan() & is_far, start[index], mask)
    return Pattern(tuple(masks), tuple(start))
