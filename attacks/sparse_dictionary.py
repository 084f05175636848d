"""Exact batches from a first linear layer: zeros of dropout or ReLU tell the examples apart.

The weight gradient is a sum of outer products, G = D X with columns of D for the examples' output gradients and rows of
X for their inputs. The gradient alone shows two subspaces, not the factors; but D has many exact zeros, one for every
unit that was dropped or inactive, and X follows from the sparsest basis of the column space. SPEAR (Dimitrov et al.
2024, arXiv 2403.03945) draws that basis at random from ReLU zeros; SPEAR++ (Bakarsky et al. 2025, arXiv 2510.24200)
finds it by dictionary learning. Dropout behind any activation supplies the same zeros: it makes batches separable
instead of hiding them. Scale and sign come from the bias or, without one, from the next layer's row space; the masks of
all layers and the labels follow layer by layer.

Threat model: honest-but-curious server, one exact gradient; labels and batch size need not be known. Without the
dropout rates the images are as exact, but only the masks of the first layer would be, so none are returned.
Fails without zeros (GELU without dropout), with too few of them for the batch (p = 0.1 beyond about 4 of 512 units),
and under noise, which leaves no exact zero; it then says so and returns grey images. With ReLU, sparse mixtures may
pass for examples: the objective tells.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple, final

import torch
from pydantic import Field
from torch import Tensor

from attacks._agreement import knows_rates, verdict
from attacks._labels import infer_labels
from attacks._layers import PixelLayer, examples_from, first_linear, layer_behind
from attacks._matching import one_gradient_only
from attacks._peeling import peeled
from attacks._scale import largest_in_range, signed_scales
from attacks._sparsest import ZERO, Sparse, entries, nothing_found, searched
from fedsim.hooks import Attack, Effort
from fedsim.registry import attack
from fedsim.types import Config, Observation, OnStep, Reconstruction, Step, View

_SURELY_KEPT = 1e-3
_UNITS_PER_EXAMPLE = 4
_MATCHES = 1e-5


class SparseDictionaryConfig(Config):
    """Settings of the search. A round of 1,024 starts takes about half a second on one core for 512 units."""

    rounds: int = Field(default=4, ge=1, description="most rounds before giving up")
    starts: int = Field(default=1024, ge=1, description="random starts a round")
    rank_tolerance: float = Field(
        default=1e-5, gt=0, lt=1, description="singular values below this share of the largest count as zero"
    )


class _Factors(NamedTuple):
    basis: Tensor  # (live rows, R), orthonormal columns
    right: Tensor  # (R, columns)
    live: Tensor  # (h,), True for rows of the gradient that are not zero


@final
@attack("sparse-dictionary", summary="exact batches from zeros of dropout or ReLU (SPEAR++)", paper="2510.24200")
class SparseDictionary(Attack[SparseDictionaryConfig]):
    """Sparsest basis of the column space of the first weight gradient."""

    effort: ClassVar[Effort] = "search"
    views: ClassVar[frozenset[View]] = frozenset({"single-update", "sum"})

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse several steps, single examples, and models without a first linear layer whose scale can be found."""
        if observation.batch_size == 1:
            return "a single example needs no search; closed-form-linear solves it"
        layer = first_linear(observation)
        if layer is None:
            return "no linear layer sees the flattened input"
        has_bias = f"{layer.name}.bias" in observation.update.tensors
        if not has_bias and layer_behind(observation, layer.name) is None:
            return f"layer '{layer.name}' has no bias and no linear layer behind it that would show the scale"
        return one_gradient_only(observation)

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Search in rounds until the basis is complete, then solve for the examples."""
        layer = first_linear(observation)
        assert layer is not None
        factors = self._factors(observation, layer)
        rank = len(factors.right)
        size = observation.batch_size or rank
        reason = _hopeless(factors, size)
        if reason is not None:
            return _given_up(observation, size, 0, reason)
        found, rounds = self._rounds(factors, generator, on_step, _grey(observation, size))
        if len(found.vectors) < rank:
            reason = (
                f"gave up: {len(found.vectors)} of {rank} examples stand out in {rounds} rounds, too few exact zeros"
            )
            return _given_up(observation, size, rounds, reason)
        return _solved(observation, layer, factors, found, rounds)

    def _factors(self, observation: Observation, layer: PixelLayer) -> _Factors:
        gradient = observation.update.tensors[f"{layer.name}.weight"].double()
        bias = observation.update.tensors.get(f"{layer.name}.bias")
        if bias is not None:
            gradient = torch.cat([gradient, bias.double()[:, None]], 1)
        live = gradient.any(1)
        left, singular, right = torch.linalg.svd(gradient[live], full_matrices=False)
        rank = int((singular > self.config.rank_tolerance * singular[0]).sum())
        return _Factors(left[:, :rank], singular[:rank, None] * right[:rank], live)

    def _rounds(
        self, factors: _Factors, generator: torch.Generator, on_step: OnStep, grey: Tensor
    ) -> tuple[Sparse, int]:
        rank = len(factors.right)
        found = nothing_found(rank)
        for round_ in range(1, self.config.rounds + 1):
            found = searched(factors.basis, found, self.config.starts, generator)
            missing = 1.0 - len(found.vectors) / rank
            on_step(Step(0, round_, self.config.rounds, missing, missing, grey))
            if missing == 0.0:
                return found, round_
        return found, self.config.rounds


def _hopeless(factors: _Factors, size: int) -> str | None:
    units, rank = factors.basis.shape
    if rank > size:
        return f"gave up: numerical rank {rank} exceeds the batch size {size}, so the gradient is not exact"
    if units < _UNITS_PER_EXAMPLE * rank:
        return f"gave up: {units} units cannot tell {rank} examples apart, at least {_UNITS_PER_EXAMPLE * rank} could"
    return None


def _solved(
    observation: Observation, layer: PixelLayer, factors: _Factors, found: Sparse, rounds: int
) -> Reconstruction:
    """Invert the complete basis, then find scales, masks and labels."""
    rows = torch.linalg.solve(found.vectors.T, factors.right)
    residual = (_residual(factors, found, rows), "relative residual of the first gradient, zeros enforced")
    has_bias = f"{layer.name}.bias" in observation.update.tensors
    rows = rows[:, :-1] / rows[:, -1:] if has_bias else _scaled(observation, layer, factors, found, rows)
    examples = examples_from(rows, layer, observation)
    inner = peeled(observation, examples)
    labels = inner.labels if inner.labels is not None else _labels(observation, len(examples))
    masks = inner.masks if knows_rates(observation) else None
    objective, meaning = verdict(observation, examples, labels, masks, residual)
    silent = _grey(observation, (observation.batch_size or len(examples)) - len(examples))
    return Reconstruction(
        inputs=torch.cat([examples, silent]),
        labels=torch.cat([labels, labels.mode().values.expand(len(silent))]),
        masks=(masks or None) if not len(silent) else None,
        objective=objective,
        iterations=rounds,
        best_iteration=rounds,
        history=((rounds, objective),),
        stopped="all examples separated" if objective < _MATCHES else "separated, but the gradient is not matched",
        notes=(
            f"layer '{layer.name}' sees the pixels",
            f"{len(examples)} examples left a trace, {len(silent)} did not and are grey",
            f"exact zeros a separated example: {float(found.zero_shares.min()):.0%} or more",
            meaning,
        ),
        is_exact=objective < _MATCHES,
    )


def _residual(factors: _Factors, found: Sparse, rows: Tensor) -> float:
    nonzero = entries(factors.basis, found.vectors).abs().T > ZERO
    rebuilt = (factors.basis @ found.vectors.T * nonzero) @ rows
    return float((rebuilt - factors.basis @ factors.right).norm() / factors.right.norm())


def _scaled(observation: Observation, layer: PixelLayer, factors: _Factors, found: Sparse, rows: Tensor) -> Tensor:
    """Give rows (R, pixels) without bias the scale and sign that the next layer's row space demands."""
    behind = layer_behind(observation, layer.name)
    assert behind is not None
    compared = torch.zeros(len(rows), len(factors.live), dtype=torch.float64)
    compared[:, factors.live] = entries(factors.basis, found.vectors).abs().gt(_SURELY_KEPT).double()
    rows = rows / rows.square().mean(1, keepdim=True).sqrt()
    gradient = observation.update.tensors[f"{behind.name}.weight"].double()
    row_space = torch.linalg.svd(gradient, full_matrices=False).Vh[: len(rows)]
    weight = observation.model.get_parameter(f"{layer.name}.weight").detach().double()
    scales = signed_scales(behind.inputs, rows @ weight.T, compared, row_space)
    rows = rows * scales.values.sign()[:, None]
    in_range = largest_in_range(examples_from(rows, layer, observation).double(), observation)
    return rows * torch.where(scales.identified, scales.values.abs(), in_range)[:, None]


def _given_up(observation: Observation, size: int, rounds: int, reason: str) -> Reconstruction:
    """Grey images, with the distance that they have from the observed gradient."""
    grey = _grey(observation, size)
    labels = _labels(observation, size)
    kept = tuple(torch.ones((size, *site.shape[1:])) for site in observation.sites)
    objective, meaning = verdict(observation, grey, labels, kept, (1.0, "1, since nothing was recovered"))
    return Reconstruction(
        inputs=grey,
        labels=labels,
        masks=None,
        objective=objective,
        iterations=rounds,
        best_iteration=rounds,
        history=((rounds, objective),),
        stopped=reason,
        notes=("the images are grey: nothing was recovered", meaning),
    )


def _labels(observation: Observation, size: int) -> Tensor:
    labels = observation.labels if observation.labels is not None else infer_labels(observation)
    return labels.clone() if len(labels) == size else labels.mode().values.expand(size).clone()


def _grey(observation: Observation, size: int) -> Tensor:
    return torch.zeros((size, *observation.spec.shape), dtype=next(observation.model.parameters()).dtype)
