"""Find the first layer that reads every token by itself, and confirm patches by its gradient.

The inputs of a linear layer lie in the row space of its weight gradient. The layer after the embedding reads each token
by itself, often normalised. So for a patch known up to a combination of rows, the correct combination has a token that,
with its mask, lies in that space: as many equations as features, for as many unknowns as rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from attacks.core.gradient_distance import knows_rates
from attacks.core.layers import once_a_model
from attacks.core.patches import Patches, embedding_site, patch_projection, position_embedding
from attacks.core.spans import part_outside, span_of
from attacks.core.tolerances import LEAST
from fedsim.core.nets.layer_calls import inputs_in_order, read_by
from fedsim.core.nets.masks import disable_dropout, inject_masks
from fedsim.core.types import Observation

_STEPS = 30
_DIFFERENCE = 1e-5  # relative step of a central difference, whose error is about its square
_SETTLED = 0.999
_FIRST_DAMPING, _RIDGE = 1e-2, 1e-9
_TRIED_DAMPINGS = torch.tensor([1e-4, 1e-2, 1.0, 1e2], dtype=torch.float64)
_CONFIRMED = 3e-5  # as for the examples of a dense layer
_SPARE = 8  # more equations than unknowns, so that no other patch is confirmed by chance


class _Given(nn.Module):
    """Replaces the patch projection and returns given outputs."""

    values: Tensor

    def forward(self, _inputs: Tensor) -> Tensor:
        return self.values


class TokenReader(NamedTuple):
    """The layer after the embedding, and the span of its inputs.

    Attributes:
        reads: function from outputs (n, width) of the projection, a mask (width,) and a position t to the layer's
            inputs (n, features), float64.
        frame: orthonormal rows that span the layer's inputs in the batch, shape (rank, features).
        weight: weight of the projection, with its bias as the last column, shape (width, columns), float64.
        has_bias: whether the gradient of the bias is shared.
    """

    reads: Callable[[Tensor, Tensor, int], Tensor]
    frame: Tensor
    weight: Tensor
    has_bias: bool


def token_reader(observation: Observation, size: int) -> TokenReader | None:
    """Return the reader for a batch of this size; None for unknown rates, or without a layer on single tokens."""
    first_layer = _find(observation) if knows_rates(observation) else None
    patches = patch_projection(observation)
    if first_layer is None or patches is None or first_layer[1] not in observation.update.tensors:
        return None
    gradient = observation.update.tensors[first_layer[1]].double()
    index = embedding_site(observation)
    assert index is not None
    tokens = size * math.prod(observation.sites[index].shape[1:-1])
    frame, _ = span_of(gradient, limit=tokens)
    projection = observation.model.get_submodule(patches.name)
    assert isinstance(projection, nn.Linear | nn.Conv2d)
    parts = [projection.weight.detach().double().flatten(1)]
    parts += [] if projection.bias is None else [projection.bias.detach().double()[:, None]]
    has_bias = f"{patches.name}.bias" in observation.update.tensors
    return TokenReader(_reading(observation, patches, first_layer[0]), frame, torch.cat(parts, 1), has_bias)


def confirmed_row(reader: TokenReader, row: Tensor, open_rows: Tensor, mask: Tensor, place: int) -> Tensor | None:
    """Return row + a combination of open rows (m, columns) whose token the reader's gradient confirms, or None.

    Args:
        reader: the layer after the embedding.
        row: a patch (columns,), up to such a combination; the input of a bias, if any, is the last entry.
        open_rows: shape (m, columns).
        mask: 1 for features of the token that dropout kept, shape (width,).
        place: position of the patch.
    """
    if len(reader.frame) + len(open_rows) + _SPARE > reader.frame.shape[1]:
        return None
    factors = torch.zeros(len(open_rows), dtype=row.dtype)
    eye = torch.eye(len(open_rows), dtype=row.dtype)
    [residual] = _residuals(reader, row[None], mask, place)
    damping = _FIRST_DAMPING
    for _ in range(_STEPS):
        size = _DIFFERENCE * float(factors.norm().clamp_min(1.0))
        moved = torch.cat([factors + size * eye, factors - size * eye])
        forward, backward = _residuals(reader, row + moved @ open_rows, mask, place).chunk(2)
        slopes = (forward - backward) / (2 * size)
        gram, right_side = slopes @ slopes.T, slopes @ residual
        dampings = damping * _TRIED_DAMPINGS.to(gram.device)
        systems = gram + dampings[:, None, None] * torch.diag_embed(gram.diagonal() + _RIDGE * gram.trace())
        tried = factors - torch.linalg.solve(systems, right_side.expand(len(dampings), -1))
        residuals = _residuals(reader, row + tried @ open_rows, mask, place)
        best = int(residuals.norm(dim=1).argmin())
        if float(residuals[best].norm()) >= float(residual.norm()):
            break
        is_settled = float(residuals[best].norm()) > _SETTLED * float(residual.norm())
        factors, residual, damping = tried[best], residuals[best], float(dampings[best])
        if is_settled:
            break
    return row + factors @ open_rows if float(residual.norm()) < _CONFIRMED else None


def _residuals(reader: TokenReader, rows: Tensor, mask: Tensor, place: int) -> Tensor:
    """Return the normalised inputs' parts outside the row space, and errors of the bias's input, (n, ...)."""
    seen = reader.reads(rows @ reader.weight.T, mask, place)
    seen = seen / seen.norm(dim=1, keepdim=True).clamp_min(LEAST)
    unexplained = part_outside(seen, reader.frame)
    return torch.cat([unexplained, rows[:, -1:] - 1.0], 1) if reader.has_bias else unexplained


def _reading(observation: Observation, patches: Patches, layer: str) -> Callable[[Tensor, Tensor, int], Tensor]:
    """Return the function of a `TokenReader`; its model is a float64 copy without a patch projection."""
    given = _Given()
    model = _replace_projection(observation, patches, given)
    positions, index = position_embedding(observation), embedding_site(observation)
    assert positions is not None
    assert index is not None
    site, count = observation.sites[index], len(patches.pixels)

    def reads(outputs: Tensor, mask: Tensor, place: int) -> Tensor:
        tokens = outputs.new_zeros(len(outputs), count, patches.width)
        tokens[:, place] = outputs
        masks = outputs.new_ones(len(outputs), *site.shape[1:])
        masks[:, positions.first + place] = mask
        given.values = _as_projected(observation, patches, tokens)
        blank = outputs.new_zeros(1, *observation.spec.shape).expand(len(outputs), *observation.spec.shape)
        [seen] = read_by(model, [layer], blank, inject_masks([site], (masks,)))
        return seen[:, positions.first + place]

    return reads


def _replace_projection(observation: Observation, patches: Patches, given: _Given) -> nn.Module:
    return observation.working_copy("train", torch.float64, replaced={patches.name: given}).requires_grad_(False)


def _as_projected(observation: Observation, patches: Patches, tokens: Tensor) -> Tensor:
    """Return tokens (n, N, width) in the output shape of the projection."""
    projection = observation.model.get_submodule(patches.name)
    if isinstance(projection, nn.Linear):
        return tokens
    assert isinstance(projection, nn.Conv2d)
    columns = observation.spec.shape[-1] // int(projection.stride[-1])
    return tokens.transpose(1, 2).unflatten(2, (-1, columns))


@torch.no_grad()
@once_a_model
def _find(observation: Observation) -> tuple[str, str] | None:
    """Return the first layer on whole token sequences, and its weight's name, if it reads each token by itself."""
    patches, positions = patch_projection(observation), position_embedding(observation)
    assert patches is not None
    assert positions is not None
    given = _Given()
    model = _replace_projection(observation, patches, given)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn((2, len(patches.pixels), patches.width), generator=generator, dtype=torch.float64)
    tokens[1, 1:] = tokens[0, 1:]
    given.values = _as_projected(observation, patches, tokens)
    with inputs_in_order(model, (nn.Linear, nn.MultiheadAttention)) as seen, disable_dropout():
        model(tokens.new_zeros(2, *observation.spec.shape))
    for name, read in seen:
        if read.ndim == 3 and len(read) == 2 and read.shape[1] >= len(patches.pixels):  # noqa: PLR2004 - (2, T, features)
            changed = (read[0] != read[1]).any(1).nonzero()[:, 0]
            kind = "in_proj_weight" if isinstance(model.get_submodule(name), nn.MultiheadAttention) else "weight"
            return (name, f"{name}.{kind}") if changed.tolist() == [positions.first] else None
    return None
