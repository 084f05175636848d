"""Which of some candidate rows a first gradient is made of.

Candidates that are no rows of the batch are sums and differences of rows, so they span the same space: which are rows
shows only in the factor on the left, in its zeros or in the derivatives that it is made of.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from attacks.core.spans import frame_of, part_outside
from fedsim.core.layer_calls import layer_outputs
from fedsim.core.types import Observation

_ZERO = 1e-3  # of the largest entry of a unit's row: errors of single precision stay below, few true entries are
_DEPENDENT = 1e-6
_SWAPS = 200
_OUTSIDE = 1e-2  # share of a row's output gradient that rounding leaves outside the column space; of others most is
_AT_ONCE = 8192


def by_zeros(parts: Tensor, known: Tensor, starts: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield R candidates, by their places, for which D of G = D X has more zeros than for any before.

    It exchanges one candidate at a time as long as that adds zeros, from several starts. It yields nothing where the
    candidates span less than R dimensions.

    Args:
        parts: G in coordinates of its row space, shape (h, R).
        known: candidates in these coordinates, shape (k, R).
        starts: how many choices to start from.
        generator: for the starts.
    """
    live = parts[parts.norm(dim=1) > 0]
    live = live / live.norm(dim=1, keepdim=True)
    most = -1
    for _ in range(starts):
        order = torch.randperm(len(known), generator=generator)
        start = _independent(known[order])
        if start is None:
            return
        chosen, zeros = _exchanged(live, known, order[start])
        if zeros > most:
            yield chosen
            most = zeros


def _independent(vectors: Tensor) -> Tensor | None:
    """Return the places of the first R independent vectors of (k, R)."""
    kept: list[int] = []
    basis = vectors[:0]
    for place, vector in enumerate(vectors / vectors.norm(dim=1, keepdim=True)):
        rest = vector - basis.T @ (basis @ vector)
        rest = rest - basis.T @ (basis @ rest)
        if float(rest.norm()) > _DEPENDENT:
            kept.append(place)
            basis = torch.cat([basis, rest[None] / rest.norm()])
        if len(kept) == vectors.shape[1]:
            return torch.tensor(kept)
    return None


def _exchanged(live: Tensor, known: Tensor, chosen: Tensor) -> tuple[Tensor, int]:
    """Exchange the pair that adds most zeros, until none adds any."""
    chosen = chosen.clone()
    zeros = 0
    for _ in range(_SWAPS):
        left = torch.linalg.solve(known[chosen].T, live.T).T  # D
        weights = torch.linalg.solve(known[chosen].T, known.T).T  # candidates as sums of the chosen ones
        zeros = int(_zeros(left))
        counts = torch.stack([_zeros_after(left, weights, place) for place in range(len(chosen))], 1)
        best = int(counts.argmax())
        candidate, place = divmod(best, len(chosen))
        if int(counts[candidate, place]) <= zeros:
            break
        chosen[place] = candidate
    return chosen, zeros


def _zeros_after(left: Tensor, weights: Tensor, place: int) -> Tensor:
    """Count zeros of D once each candidate stands in a place, shape (k,); -1 where it would not be independent."""
    pivot = weights[:, place]
    ratio = weights / torch.where(pivot.abs() > _DEPENDENT, pivot, torch.inf)[:, None]
    changed = left[None] - left[None, :, place, None] * ratio[:, None]
    changed[:, :, place] = left[:, place] / torch.where(pivot.abs() > _DEPENDENT, pivot, torch.inf)[:, None]
    return torch.where(pivot.abs() > _DEPENDENT, _zeros(changed), -1)


def _zeros(left: Tensor) -> Tensor:
    """Count the entries (..., h, R) that are small beside the largest of their row."""
    size = left.abs()
    return (size < _ZERO * size.amax(-1, keepdim=True)).flatten(-2).sum(-1)


def in_column_space(observation: Observation, layer: str, examples: Tensor, parts: Tensor) -> Tensor:
    """Say which candidates may be rows of the batch, one by one, shape (k,).

    The output gradient of a row is a combination of the derivatives of the outputs, whatever the loss. It is a column
    of D, and G = D X has it in its column space where the row is independent of all others.

    Args:
        observation: of a model without dropout.
        layer: name of the first linear layer.
        examples: the candidates, shape (k, *shape).
        parts: G in coordinates of its row space, shape (h, R).
    """
    frame = frame_of(parts.T)
    flags: list[Tensor] = []
    for some in examples.split(_AT_ONCE):
        directions = torch.linalg.qr(_slopes(observation, layer, some).mT).Q
        flags.append(torch.linalg.svdvals(part_outside(directions.mT, frame))[:, -1] < _OUTSIDE)
    return torch.cat(flags)


def by_derivatives(
    observation: Observation, layer: str, examples: Tensor, parts: Tensor, known: Tensor
) -> Iterator[Tensor]:
    """Yield the R candidates, by their places, of which the first gradient is a sum, or nothing if it cannot tell.

    Row i adds sum_k c_ik J_k(x_i) x_i^T, J_k the derivative of output k by the layer's output, whatever the loss. These
    are h R equations for as many unknowns as candidates times outputs, or one output less: residuals of classes add up
    to 0. Least squares drop the half of the candidates that adds least, and again, until R are left: few candidates
    are better conditioned.

    Args:
        observation: of a model without dropout.
        layer: name of the first linear layer.
        examples: the candidates, shape (k, *shape).
        parts: G in coordinates of its row space, shape (h, R).
        known: candidates in these coordinates, shape (k, R).
    """
    slopes = _slopes(observation, layer, examples)
    if len(slopes) * slopes.shape[1] >= parts.numel():
        return
    terms = torch.einsum("iko,ir->ikor", slopes, known).flatten(2).flatten(0, 1)
    sizes = terms.norm(dim=1).clamp_min(torch.finfo(torch.float64).tiny)
    terms = (terms / sizes[:, None]).view(len(slopes), -1, parts.numel())
    kept = torch.arange(len(slopes))
    while len(kept) > parts.shape[1]:
        columns = terms[kept].flatten(0, 1).T
        factors = torch.linalg.lstsq(columns, parts.flatten()[:, None], driver="gelsd").solution
        shares = factors.view(len(kept), -1).norm(dim=1)
        kept = kept[shares.topk(max(parts.shape[1], len(kept) // 2)).indices]
    yield kept.sort().values


def _slopes(observation: Observation, layer: str, examples: Tensor) -> Tensor:
    """Return the derivatives that output gradients are combinations of, shape (k, outputs, h); of classes one fewer."""
    slopes = _derivatives(observation, layer, examples)
    return slopes[:, :-1] - slopes[:, -1:] if observation.task.label_kind == "class" else slopes


def _derivatives(observation: Observation, layer: str, examples: Tensor) -> Tensor:
    """Return the derivatives of every output by the layer's outputs, shape (k, outputs, h), in double precision."""
    model = copy.deepcopy(observation.model).double().train().requires_grad_()
    with layer_outputs(model, [layer]) as seen:
        outputs = model(examples.double()).flatten(1)
    (_, hidden), *_ = seen
    by_output = [torch.autograd.grad(part.sum(), hidden, retain_graph=True)[0] for part in outputs.unbind(1)]
    return torch.stack(by_output, 1)
