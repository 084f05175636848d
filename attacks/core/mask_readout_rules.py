"""Recover the dropout masks of a single example from the zeros of its gradient.

The output and the gradient of a dropped unit are zero. So its row is zero in the weight gradient of the layer before,
its column in the weight gradient of the layer after, and its entry in the gradient of a position embedding added there.
Trials with random masks show which zeros follow which masks, so this works for any model.

Zeros count only in an exact gradient. For a single example, a layer on one vector has a weight gradient of rank one;
noise, pruning and quantisation leave a residual above rounding. With ReLU a zero means dropped or inactive; both give
the same gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from attacks.core.defense_facts import sends_part
from attacks.core.labels import blank_labels
from attacks.core.layers import once_a_model, run
from attacks.core.spans import rank_one
from attacks.core.tolerances import EXACT
from fedsim.core.nets.layer_calls import inputs_in_order
from fedsim.core.nets.masks import inject_masks
from fedsim.core.types import Masks, Observation

_TRIALS = 3
_ALIVE = 0.25  # smallest share of kept units with a gradient

_Reading = Literal["columns", "rows", "entries"]
_READINGS: tuple[_Reading, ...] = ("columns", "rows", "entries")


class _Trial(NamedTuple):
    masks: Masks
    loss: Tensor


class _Source(NamedTuple):
    """A tensor with zeros that show the mask of a site, or row `row` of that mask."""

    site: int
    row: int
    tensor: str
    reading: _Reading


def read_masks(observation: Observation) -> dict[int, Tensor]:
    """Return masks in the sites' shapes, by index into `observation.sites`: 1 kept, 0 dropped, NaN not readable.

    Empty for several examples, where a zero would mean dropped in all of them; for inexact gradients; and if a defense
    declares that some entries are not sent.
    """
    if not observation.sites or (observation.batch_size or 1) > 1 or sends_part(observation):
        return {}
    tensors, dtype = observation.update.tensors, next(observation.model.parameters()).dtype
    masks: dict[int, Tensor] = {}
    for source in _select_sources(observation):
        alive = _alive(tensors[source.tensor], source.reading)
        blank = torch.full(observation.sites[source.site].shape, torch.nan, dtype=dtype)
        rows = masks.setdefault(source.site, blank).view(-1, len(alive))
        if bool(rows[source.row].isnan().any()):
            rows[source.row] = alive.to(dtype)
    return masks


def read_all_masks(observation: Observation) -> Masks | None:
    """Return one mask per site, or None if some entry is unknown."""
    masks = read_masks(observation)
    is_complete = len(masks) == len(observation.sites) and not any(bool(mask.isnan().any()) for mask in masks.values())
    return tuple(masks[index] for index in range(len(masks))) if is_complete else None


def _select_sources(observation: Observation) -> list[_Source]:
    """Return the sources in exact matrices; other tensors count if every matrix that should have rank one has."""
    tensors = observation.update.tensors
    sources = [source for source in _sources(observation) if bool(tensors[source.tensor].any())]
    matrices = {source.tensor for source in sources if source.reading != "entries"}
    exact = {name: rank_one(tensors[name].double()).residual < EXACT for name in matrices}
    is_exact = bool(exact) and all(exact.values())
    return [source for source in sources if (is_exact if source.reading == "entries" else exact[source.tensor])]


@once_a_model
def _sources(observation: Observation) -> list[_Source]:
    """Return the sources: zeros that follow a mask in every one of several trials with random masks.

    Columns are tried first: they belong to the layer after the dropout, where no activation causes zeros. The search
    ends when every site has a source.
    """
    generator = torch.Generator().manual_seed(0)
    model = observation.model
    trials = [_trial(model, observation, generator) for _ in range(_TRIALS)]
    kept = [torch.stack(masks).bool() for masks in zip(*(trial.masks for trial in trials), strict=True)]
    sources: list[_Source] = []
    explained: set[int] = set()
    for reading in _READINGS:
        for name, alive in _patterns(model, observation, trials, reading):
            for site, masks in enumerate(kept):
                rows = _follow(masks, alive)
                sources.extend(_Source(site, row, name, reading) for row in rows)
                explained.update([site] if rows and masks[0].numel() == alive.shape[1] else [])
        if len(explained) == len(kept):
            break
    return sources


def _trial(model: nn.Module, observation: Observation, generator: torch.Generator) -> _Trial:
    """Draw masks with half of their entries kept, for a random example."""
    dtype = next(model.parameters()).dtype
    masks = tuple(torch.rand(s.shape, generator=generator).gt(0.5).to(dtype) for s in observation.sites)
    example = torch.randn((1, *observation.spec.shape), generator=generator, dtype=dtype)
    with inject_masks(observation.sites, masks):
        return _Trial(masks, observation.loss(run(model, example), blank_labels(observation, 1)))


def _patterns(
    model: nn.Module, observation: Observation, trials: list[_Trial], reading: _Reading
) -> Iterator[tuple[str, Tensor]]:
    """Yield parameter names with the nonzero parts of their gradients in each trial, (trials, n)."""
    sizes = {size for site in observation.sites for size in (math.prod(site.shape), site.shape[-1])}
    shapes = {name: tensor.shape for name, tensor in observation.update.tensors.items()}
    names = [name for name, shape in shapes.items() if _size(shape, reading) in sizes]
    if not names:
        return
    parameters = [model.get_parameter(name) for name in names]
    gradients = [
        torch.autograd.grad(trial.loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
        for trial in trials
    ]
    for name, *parts in zip(names, *gradients, strict=True):
        yield name, torch.stack([_alive(part, reading) for part in parts])


def _size(shape: torch.Size, reading: _Reading) -> int:
    """Return the n of `_alive`, or 0 if the tensor does not fit this reading."""
    if reading == "entries":
        return math.prod(shape)
    is_matrix = len(shape) == 2  # noqa: PLR2004
    return shape[1 if reading == "columns" else 0] if is_matrix else 0


def _alive(tensor: Tensor, reading: _Reading) -> Tensor:
    """Return the mask of nonzero columns, rows or entries, shape (n,)."""
    if reading == "entries":
        return tensor.flatten() != 0
    return (tensor != 0).any(0 if reading == "columns" else 1)


def _follow(kept: Tensor, alive: Tensor) -> list[int]:
    """Return the rows of masks (trials, *shape) whose dropped units are never among the nonzero units (trials, n)."""
    size = alive.shape[1]
    if size not in (kept[0].numel(), kept.shape[-1]):
        return []
    rows, alive = kept.view(len(kept), -1, size), alive[:, None]
    is_silent = ~(alive & ~rows).any(2)
    is_alive = (alive & rows).sum(2) >= _ALIVE * rows.sum(2).clamp_min(1)
    return (is_silent & is_alive).all(0).nonzero().flatten().tolist()


@torch.no_grad()
def linear_behind(observation: Observation) -> dict[int, str]:
    """Return the linear layers that read the unchanged output of a dropout site: names by index of the site.

    Each site in turn gets a mask of zeros; the layer after it is the first with an input of zeros.
    """
    layer_names: dict[int, str] = {}
    for index, site in enumerate(observation.sites):
        masks = tuple(torch.full(s.shape, float(i != index)) for i, s in enumerate(observation.sites))
        name = _first_silent_linear(observation, masks)
        gradient = observation.update.tensors.get(f"{name}.weight")
        if name is not None and gradient is not None and gradient.shape[1:] == site.shape[1:]:
            layer_names[index] = name
    return layer_names


def _first_silent_linear(observation: Observation, masks: Masks) -> str | None:
    """Return the first called linear layer with an input of zeros under the given masks."""
    dtype = next(observation.model.parameters()).dtype
    example = torch.ones((masks[0].shape[0], *observation.spec.shape), dtype=dtype)
    with inputs_in_order(observation.model, (nn.Linear,)) as seen, inject_masks(observation.sites, masks):
        run(observation.model, example)
    return next((name for name, inputs in seen if not bool(inputs.any())), None)
