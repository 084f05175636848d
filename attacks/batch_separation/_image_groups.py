"""Group tokens by image, with one token per position and image.

The gradients of an image's tokens come from one loss, through the class token that attends to all of them. They point
in similar directions, unlike those of different images. Borders of neighbouring patches are continuous as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.core.patches import Patches
from attacks.core.tolerances import TINY

_SWEEPS = 20
_BORDER = 0.5  # weight of a border, in units of the typical difference, against a cosine


class TokenGroups(NamedTuple):
    """Tokens grouped by image.

    Attributes:
        images: index of the image of each token, shape (k,).
        margin: least difference between a token's mean affinity to its own image and to any other image, in standard
            errors; infinite for a single image, negative if a token fits another image better.
    """

    images: Tensor
    margin: float


def group_tokens(affinities: Tensor, positions: Tensor, size: int) -> list[TokenGroups]:
    """Return the distinct groupings that begin at each position, largest affinity within images first.

    Args:
        affinities: affinities of token pairs, symmetric, shape (k, k).
        positions: position of each token, shape (k,).
        size: number of images; no position has more tokens.
    """
    if size == 1:
        return [TokenGroups(torch.zeros_like(positions), torch.inf)]
    affinities = affinities * (positions[:, None] != positions)
    tried: dict[bytes, Tensor] = {}
    for first in positions.unique().tolist():
        images = _group_positions(affinities, positions, size, first)
        tried.setdefault((images[:, None] == images).numpy().tobytes(), images)
    affinity = [float(affinities[grouping[:, None] == grouping].sum()) for grouping in tried.values()]
    ordered = sorted(zip(affinity, tried.values(), strict=True), key=lambda pair: -pair[0])
    return [TokenGroups(images, _margin(affinities, positions, images)) for _, images in ordered]


def token_affinities(
    gradients: Tensor, rows: Tensor, positions: Tensor, patches: Patches, shape: tuple[int, ...]
) -> Tensor:
    """Return the affinity of token pairs, larger for parts of the same image, (k, k).

    Args:
        gradients: gradients of the tokens, shape (k, features).
        rows: patches of the tokens, normalised, shape (k, entries).
        positions: position of each token, shape (k,).
        patches: layout of the patches in the image.
        shape: shape of an image, channels first.
    """
    unit = F.normalize(gradients, dim=1)
    borders = _border_differences(rows, positions, patches, shape)
    typical = borders[borders > 0].median() if bool((borders > 0).any()) else borders.new_ones(())
    return unit @ unit.T - _BORDER * (borders / typical - 1.0) * (borders > 0)


def _border_differences(rows: Tensor, positions: Tensor, patches: Patches, shape: tuple[int, ...]) -> Tensor:
    """Return the mean absolute difference along the common border of token pairs, 0 without a border; shape (k, k)."""
    differences = rows.new_zeros(len(rows), len(rows))
    for first, second, inner, outer in _borders(patches, shape):
        ours, theirs = (positions == first).nonzero()[:, 0], (positions == second).nonzero()[:, 0]
        if not len(ours) or not len(theirs):
            continue
        difference = (rows[ours][:, None, inner] - rows[theirs][None, :, outer]).abs().mean(2)
        differences[ours[:, None], theirs] = difference
        differences[theirs[:, None], ours] = difference.T
    return differences


def _borders(patches: Patches, shape: tuple[int, ...]) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """Yield pairs of neighbouring patches, with the touching entries of the first and of the second."""
    count, entries = patches.pixels.shape
    height, width = shape[-2:]
    pixels = patches.pixels.flatten()
    index_map = torch.full((math.prod(shape) + width,), -1)
    index_map[pixels] = torch.arange(count * entries)
    for step, is_inside in ((1, pixels % width < width - 1), (width, pixels // width % height < height - 1)):
        below_index = index_map[pixels + step]
        inner = (is_inside & (below_index >= 0)).nonzero()[:, 0]
        outer = below_index[inner]
        pairs = inner // entries * count + outer // entries
        for pair in pairs.unique().tolist():
            if pair // count != pair % count:
                chosen = pairs == pair
                yield pair // count, pair % count, inner[chosen] % entries, outer[chosen] % entries


def _group_positions(affinities: Tensor, positions: Tensor, size: int, first: int) -> Tensor:
    """Assign position after position to images that begin at `first`; repeat until no assignment changes."""
    images = torch.full_like(positions, -1)
    start = (positions == first).nonzero()[:, 0]
    images[start] = torch.arange(len(start))
    order = [first, *(position for position in positions.unique().tolist() if position != first)]
    for sweep in range(_SWEEPS):
        before = images.clone()
        for position in order[1:] if sweep == 0 else order:
            _assign(affinities, positions, images, position, size)
        if torch.equal(before, images):
            break
    return images


def _assign(affinities: Tensor, positions: Tensor, images: Tensor, position: int, size: int) -> None:
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - takes long to import

    places = (positions == position).nonzero()[:, 0]
    images[places] = -1
    members = torch.stack([images == image for image in range(size)]).to(affinities)  # (size, k)
    mean = affinities[places] @ members.T / members.sum(1).clamp_min(1.0)
    rows, columns = linear_sum_assignment(mean.numpy(), maximize=True)
    images[places[torch.as_tensor(rows)]] = torch.as_tensor(columns)


def _margin(affinities: Tensor, positions: Tensor, images: Tensor) -> float:
    is_compared = (positions[:, None] != positions).to(affinities)
    members = F.one_hot(images).to(affinities)  # (k, size)
    counts = is_compared @ members
    means = (affinities * is_compared) @ members / counts.clamp_min(1.0)
    squares = (affinities.square() * is_compared) @ members / counts.clamp_min(1.0)
    errors = (squares - means.square()).clamp_min(0.0) / (counts - 1.0).clamp_min(1.0)  # squared, of the means
    image = images[:, None]
    margins = means.gather(1, image) - means
    scores = margins / (errors + errors.gather(1, image)).sqrt().clamp_min(TINY)
    is_known = (counts > 1.0) & (counts.gather(1, image) > 1.0)
    return float(torch.where(is_known, scores, 0.0).scatter(1, image, torch.inf).min())
