"""Layout of the solved vector: positions of the examples and of the unknown mask entries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.core.defense_facts import inexact
from attacks.core.labels import examples_of
from attacks.core.mask_readout_rules import linear_behind, read_masks
from fedsim.core.nets.masks import expected_mask
from fedsim.core.types import Masks, Observation

_CERTAIN = 1e-6  # variance of a mask whose rate is 0 or 1


@dataclass(frozen=True)
class UnknownsPart:
    """Consecutive examples whose gradient depends on no other example.

    Attributes:
        examples: indices of the examples.
        places: positions of their unknowns in the whole vector: entries of the examples, then of the masks.
        known_masks: masks of every step, one per site, for these examples; 0 at unknown entries.
        free: unknown entries of the flattened mask, for every step and site.
    """

    examples: range
    places: Tensor
    known_masks: tuple[Masks, ...]
    free: tuple[tuple[Tensor, ...], ...]

    def unpack(self, values: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, tuple[Masks, ...]]:
        """Return examples (B, *shape) and masks of every step from the part's own unknowns."""
        end = len(self.examples) * math.prod(shape)
        inputs, steps = values[:end].view(len(self.examples), *shape), []
        for known, free in zip(self.known_masks, self.free, strict=True):
            masks = []
            for mask, index in zip(known, free, strict=True):
                chosen, end = values[end : end + len(index)], end + len(index)
                masks.append(mask.flatten().index_add(0, index, chosen).view(mask.shape))
            steps.append(tuple(masks))
        return inputs, tuple(steps)


class UnknownsLayout:
    """Positions of the unknowns in the vector.

    Attributes:
        size: number n of unknowns.
        pixels: number of unknown example entries; they come first.
        shape: shape of one example.
        examples: number of examples.
    """

    def __init__(self, observation: Observation, masks: Sequence[Masks]) -> None:
        """Store masks of every step, one per site, with NaN at unknown entries."""
        self.shape, self.examples = observation.spec.shape, examples_of(observation)
        self.pixels = self.examples * math.prod(self.shape)
        self._masks = masks
        self._rates = [site.rate for site in observation.sites]
        self._device = next(observation.model.parameters()).device
        self._expected = [expected_mask(site).double().to(self._device) for site in observation.sites]
        self._numbers = _number_entries(masks, self.pixels)
        self.size = self.pixels + sum(int(mask.isnan().sum()) for step in masks for mask in step)

    def start(self, generator: torch.Generator, size: float) -> Tensor:
        """Return a start (n,): small noise for examples, the expectation for mask entries."""
        noise = size * torch.randn(self.pixels, generator=generator, dtype=torch.float64)
        mean = self.prior_mean()
        return torch.cat([noise.to(mean), mean[self.pixels :]])

    def start_at(self, inputs: Tensor, masks: Masks) -> Tensor:
        """Return a start (n,) at examples (B, *shape) and at masks, one per site, for their unknown entries."""
        entries = self._fill(0.0, [mask.to(self._device) for mask in masks])[self.pixels :]
        return torch.cat([inputs.to(entries).flatten(), entries])

    def prior_mean(self) -> Tensor:
        """Return the prior mean (n,): 0 in normalised units, the keep probability of a mask entry."""
        return self._fill(0.0, self._expected)

    def prior_precision(self) -> Tensor:
        """Return 1 / variance (n,): 1 for normalised inputs, 1 / (p (1 - p)) for masks."""
        spreads = [max(rate * (1.0 - rate), _CERTAIN) for rate in self._rates]
        variances = [torch.full_like(mean, spread) for mean, spread in zip(self._expected, spreads, strict=True)]
        return 1.0 / self._fill(1.0, variances)

    def project(self, values: Tensor, box: tuple[Tensor, Tensor] | None) -> Tensor:
        """Return the unknowns with mask entries in [0, 1], and pixels clamped to a box if given."""
        pixels = values[: self.pixels]
        if box is not None:
            pixels = pixels.view(-1, *self.shape).clamp(*box).flatten()
        return torch.cat([pixels, values[self.pixels :].clamp(0.0, 1.0)])

    def split(self, parts: int) -> list[UnknownsPart]:
        """Return the examples in `parts` parts of equal size: 1 or the number of examples."""
        step = self.examples // parts
        return [self._part(range(first, first + step)) for first in range(0, self.examples, step)]

    def _part(self, examples: range) -> UnknownsPart:
        share = math.prod(self.shape)
        places = [torch.arange(examples.start * share, examples.stop * share, device=self._device)]
        known, free = [], []
        for masks, numbers in zip(self._masks, self._numbers, strict=True):
            part_masks = [self._rows(mask, examples) for mask in masks]
            known.append(tuple(mask.nan_to_num(nan=0.0) for mask in part_masks))
            free.append(tuple(mask.flatten().isnan().nonzero()[:, 0] for mask in part_masks))
            rows = (self._rows(number, examples).flatten() for number in numbers)
            places += [row[index] for row, index in zip(rows, free[-1], strict=True)]
        return UnknownsPart(examples, torch.cat(places), tuple(known), tuple(free))

    def _rows(self, mask: Tensor, examples: range) -> Tensor:
        count = len(mask) // self.examples
        return mask[examples.start * count : examples.stop * count]

    def _fill(self, pixel: float, masks: Sequence[Tensor]) -> Tensor:
        entries = [
            value.expand_as(mask)[mask.isnan()] for step in self._masks for mask, value in zip(step, masks, strict=True)
        ]
        return torch.cat([torch.full((self.pixels,), pixel, dtype=torch.float64, device=self._device), *entries])


def _number_entries(masks: Sequence[Masks], first: int) -> list[list[Tensor]]:
    """Return for every mask the positions of its unknown entries in the vector; 0 for other entries."""
    numbers: list[list[Tensor]] = []
    for step in masks:
        numbers.append([])
        for mask in step:
            number = torch.zeros(mask.shape, dtype=torch.long, device=mask.device)
            count = int(mask.isnan().sum())
            number[mask.isnan()] = torch.arange(first, first + count, device=mask.device)
            numbers[-1].append(number)
            first += count
    return numbers


def masks_to_solve(observation: Observation) -> tuple[Masks, ...]:
    """Return masks of every step, one per site: granted or inferred from zeros of the gradient, NaN where unknown."""
    device = next(observation.model.parameters()).device
    if observation.masks is not None:
        return tuple(tuple(mask.double().to(device) for mask in step) for step in observation.masks)
    unknown = tuple(torch.full(site.shape, torch.nan, dtype=torch.float64, device=device) for site in observation.sites)
    if observation.local_steps > 1 or inexact(observation) is not None:
        return (unknown,) * observation.local_steps
    read = read_masks(observation) if examples_of(observation) == 1 else _read_common_zeros(observation)
    return (tuple(read[index].double().to(device) if index in read else mask for index, mask in enumerate(unknown)),)


def _read_common_zeros(observation: Observation) -> dict[int, Tensor]:
    """Return masks by index of the site: 0 for units dropped in all examples, since their columns are zero."""
    zeros: dict[int, Tensor] = {}
    for index, name in linear_behind(observation).items():
        mask = torch.full(observation.sites[index].shape, torch.nan, dtype=torch.float64)
        mask[..., ~observation.update.tensors[f"{name}.weight"].any(0)] = 0.0
        zeros[index] = mask
    return zeros
