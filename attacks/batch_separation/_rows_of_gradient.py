"""Select a batch's rows among candidate vectors.

Candidates that are not rows of the batch are sums and differences of rows, so they span the same space. Only the left
factor identifies the rows: by its zeros, or by the derivatives of which it is a combination.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from attacks.core.spans import frame_of, part_outside
from fedsim.core.nets.layer_calls import layer_outputs
from fedsim.core.types import Observation

_ZERO = 1e-3  # relative to a unit's largest entry: errors of single precision stay below, few true entries do
_DEPENDENT = 1e-6
_SWAPS = 200
_OUTSIDE = 1e-2  # share of a true row's output gradient that rounding leaves outside the column space
_AT_ONCE = 8192


def candidates_by_zeros(parts: Tensor, known: Tensor, starts: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the indices of R candidates for which D of G = D X has more zeros than all before.

    Candidates are exchanged one at a time as long as that adds zeros, from several starts. Yields nothing if the
    candidates span fewer than R dimensions.

    Args:
        parts: G in coordinates of its row space, shape (h, R).
        known: candidates in these coordinates, shape (k, R).
        starts: number of random initial choices.
        generator: random source of the starts.
    """
    live = parts[parts.norm(dim=1) > 0]
    live = live / live.norm(dim=1, keepdim=True)
    most_zeros = -1
    for _ in range(starts):
        order = torch.randperm(len(known), generator=generator)
        start = _independent(known[order])
        if start is None:
            return
        chosen, zeros = _exchange_pairs(live, known, order[start])
        if zeros > most_zeros:
            yield chosen
            most_zeros = zeros


def _independent(vectors: Tensor) -> Tensor | None:
    """Return the indices of the first R independent vectors of (k, R), or None."""
    kept: list[int] = []
    basis = vectors[:0]
    for place, vector in enumerate(vectors / vectors.norm(dim=1, keepdim=True)):
        residual = vector - basis.T @ (basis @ vector)
        residual = residual - basis.T @ (basis @ residual)
        if float(residual.norm()) > _DEPENDENT:
            kept.append(place)
            basis = torch.cat([basis, residual[None] / residual.norm()])
        if len(kept) == vectors.shape[1]:
            return torch.tensor(kept)
    return None


def _exchange_pairs(live: Tensor, known: Tensor, chosen: Tensor) -> tuple[Tensor, int]:
    """Exchange the pair that adds most zeros, until no pair adds zeros."""
    chosen = chosen.clone()
    zeros = 0
    for _ in range(_SWAPS):
        left = torch.linalg.solve(known[chosen].T, live.T).T  # D
        weights = torch.linalg.solve(known[chosen].T, known.T).T  # candidates as sums of the chosen candidates
        zeros = int(_zeros(left))
        counts = torch.stack([_zeros_after(left, weights, place) for place in range(len(chosen))], 1)
        best = int(counts.argmax())
        candidate, place = divmod(best, len(chosen))
        if int(counts[candidate, place]) <= zeros:
            break
        chosen[place] = candidate
    return chosen, zeros


def _zeros_after(left: Tensor, weights: Tensor, place: int) -> Tensor:
    """Return the zeros of D after each candidate replaces a chosen one, shape (k,); -1 if dependent."""
    pivot = weights[:, place]
    ratio = weights / torch.where(pivot.abs() > _DEPENDENT, pivot, torch.inf)[:, None]
    changed = left[None] - left[None, :, place, None] * ratio[:, None]
    changed[:, :, place] = left[:, place] / torch.where(pivot.abs() > _DEPENDENT, pivot, torch.inf)[:, None]
    return torch.where(pivot.abs() > _DEPENDENT, _zeros(changed), -1)


def _zeros(left: Tensor) -> Tensor:
    """Count the entries (..., h, R) that are small relative to the largest of their row."""
    size = left.abs()
    return (size < _ZERO * size.amax(-1, keepdim=True)).flatten(-2).sum(-1)


def is_in_column_space(observation: Observation, layer: str, examples: Tensor, parts: Tensor) -> Tensor:
    """Return the mask of candidates that may be rows of the batch, each tested alone, shape (k,).

    For any loss, the output gradient of a row is a combination of the derivatives of the outputs. It is a column of D,
    and G = D X has it in its column space if the row is independent of all others.

    Args:
        observation: observation of a model without dropout.
        layer: name of the first linear layer.
        examples: the candidates, shape (k, *shape).
        parts: G in coordinates of its row space, shape (h, R).
    """
    frame = frame_of(parts.T)
    flags: list[Tensor] = []
    for chunk in examples.split(_AT_ONCE):
        directions = torch.linalg.qr(_slopes(observation, layer, chunk).mT).Q
        flags.append(torch.linalg.svdvals(part_outside(directions.mT, frame))[:, -1] < _OUTSIDE)
    return torch.cat(flags)


def candidates_by_derivatives(
    observation: Observation, layer: str, examples: Tensor, parts: Tensor, known: Tensor
) -> Iterator[Tensor]:
    """Yield the indices of the R candidates whose terms sum to the first gradient; nothing if underdetermined.

    For any loss, row i adds sum_k c_ik J_k(x_i) x_i^T, J_k the derivative of output k by the layer's output. These are
    h R equations for as many unknowns as candidates times outputs, or one output less: residuals of classes sum to 0.
    Least squares is repeated, each time without the half of the candidates with the smallest contributions, until R are
    left: few candidates are better conditioned.

    Args:
        observation: observation of a model without dropout.
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
    """Return the derivatives that span the output gradients, shape (k, outputs, h); for classes one output fewer."""
    slopes = _derivatives(observation, layer, examples)
    return slopes[:, :-1] - slopes[:, -1:] if observation.task.label_kind == "class" else slopes


def _derivatives(observation: Observation, layer: str, examples: Tensor) -> Tensor:
    """Return the derivatives of every output by the layer's outputs, shape (k, outputs, h), in double precision."""
    model = observation.working_copy("train", torch.float64).requires_grad_()
    with layer_outputs(model, [layer]) as seen:
        outputs = model(examples.double()).flatten(1)
    (_, hidden), *_ = seen
    by_output = [torch.autograd.grad(part.sum(), hidden, retain_graph=True)[0] for part in outputs.unbind(1)]
    return torch.stack(by_output, 1)
