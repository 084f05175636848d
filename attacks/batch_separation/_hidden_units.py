"""Recover each token's dropped embedding features from the gradient of the first block's MLP.

Dropout after the activation leaves exact zeros in the gradients of the hidden units. So the weight gradient of the
MLP's first layer, the sum over tokens of delta_t [u_t, 1]^T, separates into that layer's input u_t of each token, the
normalised sum of the token and the attention output. Where both are dropped, u_t has the same value in many entries,
the normalised 0; these features of the token were surely dropped. Where only the token is dropped, u_t is near this
value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.batch_separation._sparsest import Space, nothing_found, search_vectors
from attacks.core.layers import once_a_model
from attacks.core.patches import patch_projection, position_embedding
from attacks.core.spans import spectrum
from fedsim.core.nets.layer_calls import inputs_in_order, layer_outputs
from fedsim.core.nets.masks import disable_dropout
from fedsim.core.types import DropoutSite, Observation

_ROUNDS = 4  # of restarts; the first finds nearly all
_ZEROS_PER_TOKEN = 3  # of a hidden unit's gradients, on average; with fewer zeros the search is long and finds little
_LARGEST = 40_000_000  # hidden units times the square of tokens: entries that the search holds in memory
_USUAL_RATE = 0.5  # for unknown rates
_SAME = 2e-5  # of entries of variance 1: far above rounding, and different entries are farther apart
_FEWEST_SAME = 4


class Hint(NamedTuple):
    """Knowledge of one token at a position.

    Attributes:
        surely: mask of surely dropped features, shape (width,).
        distances: distance of every feature's input from the value of a dropped feature; small for dropped features,
            (width,).
    """

    surely: Tensor
    distances: Tensor


class _Mlp(NamedTuple):
    layer: str
    norm: str
    rate: float  # dropout rate of its units


def hidden_hints(
    observation: Observation, size: int, restarts: int, generator: torch.Generator
) -> Sequence[list[Hint]]:
    """Return the hints for every position of a patch; empty lists if hidden units do not separate tokens.

    Args:
        observation: observation of a model with learned positions.
        size: number of images.
        restarts: random restarts of a round.
        generator: random source of the restarts.
    """
    patches, positions = patch_projection(observation), position_embedding(observation)
    assert patches is not None
    assert positions is not None
    hints: list[list[Hint]] = [[] for _ in patches.pixels]
    mlp = _find(observation)
    rows = observation.model.get_parameter(positions.name).detach().double().reshape(-1, patches.width)
    tokens = None if mlp is None else _tokens(observation, mlp, size * len(rows), restarts, generator)
    if tokens is None:
        return hints
    centred = F.normalize(rows - rows.mean(1, keepdim=True), dim=1)
    places = (F.normalize(tokens - tokens.mean(1, keepdim=True), dim=1) @ centred.T).argmax(1) - positions.first
    for token, place in zip(tokens, places.tolist(), strict=True):
        hint = _hint(token)
        if hint is not None and 0 <= place < len(hints):
            hints[place].append(hint)
    return hints


def _hint(token: Tensor) -> Hint | None:
    """Return the hint of a token (width,) of variance 1, or None without a value that occurs repeatedly."""
    counts = ((token[:, None] - token).abs() < _SAME).sum(1)
    if int(counts.max()) < _FEWEST_SAME:
        return None
    distances = (token - token[counts.argmax()]).abs()
    return Hint(distances < _SAME, distances)


def _tokens(
    observation: Observation, mlp: _Mlp, limit: int, restarts: int, generator: torch.Generator
) -> Tensor | None:
    """Return the layer's input of every token before its norm's affine map, (R, width); None if undetermined."""
    tensors = observation.update.tensors
    gradient = torch.column_stack([tensors[f"{mlp.layer}.weight"].double(), tensors[f"{mlp.layer}.bias"].double()])
    left, singular, right = torch.linalg.svd(gradient[gradient.norm(dim=1) > 0.0], full_matrices=False)
    read = spectrum(singular, limit=limit)
    is_told = read.is_exact and read.rank < gradient.shape[1] and mlp.rate * len(left) >= _ZEROS_PER_TOKEN * read.rank
    if not is_told or len(left) * read.rank**2 > _LARGEST:
        return None
    sparse, space = nothing_found(read.rank), Space.of(left[:, : read.rank])
    for _ in range(_ROUNDS):
        sparse = search_vectors(space, sparse, restarts, generator)
        if len(sparse.vectors) == read.rank:
            break
    if len(sparse.vectors) < read.rank:
        return None
    rows = torch.linalg.solve(sparse.vectors.T, singular[: read.rank, None] * right[: read.rank])
    norm = observation.model.get_submodule(mlp.norm)
    assert isinstance(norm, nn.LayerNorm)
    seen = rows[:, :-1] / rows[:, -1:]
    if norm.weight is not None:
        seen = (seen - (0.0 if norm.bias is None else norm.bias.detach().double())) / norm.weight.detach().double()
    return seen


@torch.no_grad()
@once_a_model
def _find(observation: Observation) -> _Mlp | None:
    """Return the first linear layer from normalised tokens to units with dropout, if its gradient is sent."""
    patches = patch_projection(observation)
    assert patches is not None
    model = observation.working_copy("train")
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)]
    example = next(model.parameters()).new_zeros(1, *observation.spec.shape)
    with inputs_in_order(model, (nn.Linear,)) as reads, layer_outputs(model, norms) as normed, disable_dropout():
        model(example + torch.arange(example.numel()).view(example.shape) / example.numel())
    for name, read in reads:
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        rates = [site.rate or _USUAL_RATE for site in observation.sites if _drops(site, layer)]
        is_sent = {f"{name}.weight", f"{name}.bias"} <= observation.update.tensors.keys()
        if not rates or not is_sent or layer.in_features != patches.width or layer.out_features == patches.width:
            continue
        return next((_Mlp(name, norm, max(rates)) for norm, output in normed if output.equal(read)), None)
    return None


def _drops(site: DropoutSite, layer: nn.Linear) -> bool:
    """Return whether a site may drop the outputs of a layer on tokens."""
    return site.shape[-1] == layer.out_features and math.prod(site.shape[1:-1]) > 1
