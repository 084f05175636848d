"""markov-categorical: information measures of a language model as a chain of kernels: context to state, state to token.

Idea: a decoding step computes a state and samples from the head; measures of both kernels quantify a state's
    information.
Equation: surplus = I(H; W_2.. | W_1); head entropy D(diag p || p p'); metric G = W'(diag p - p p')W; alignment A = |E[h
    g']|^2 / (sum of the r largest eigenvalues of E[g g']), h whitened, g centred, r the rank of h.
Assumes: states and tokens, more states than entries in each; the probe is a log-linear head on whitened states.
Leaks: the surplus of a shared state is its information about later tokens beyond the next token.
Fails: an estimated surplus is a difference of two upper bounds, so no bound; a log-linear head represents no products.
Source: Zhang 2025, arXiv 2507.19247; estimators, normalisation and penalties are chosen here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor

from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import Probe
from fedsim.core.registry import component
from fedsim.core.types import Config, Tensors

Divergence = Literal["kl", "total-variation", "hellinger", "chi-square"]

PENALTIES = tuple(10 ** (-step / 2) for step in range(13))  # from 1, where the head is nearly uniform, to 1e-6
_CHECKED = 4  # every fourth known text selects penalties
_HIDDEN_UNITS = 256  # of the networks that estimate a surplus; chosen here, like batch size and patience
_BATCH = 128
_PATIENCE = 10  # epochs without a lower loss on validation texts
_OF_BIAS = 1e-6  # penalty that keeps the bias of an absent class finite


class MarkovCategoricalConfig(Config):
    """Settings of markov-categorical."""

    penalty: float = Field(default=1e-3, gt=0, description="weight of the squared head on whitened states")
    steps: int = Field(default=200, ge=1, description="most steps of the search for the head")


@final
@component(
    "markov-categorical",
    summary="probe: information measures of states and their head",
    tier="research",
    paper="2507.19247",
    fidelity="variant",
    deviates="as a probe it is softmax regression; estimators, normalisation and penalties are chosen here",
    paper_steps=(
        ("information surplus of a source", "table_surplus"),
        ("estimated surplus", "estimated_surplus"),
        ("surplus by a network", "network_surplus"),
        ("categorical entropy of the head", "categorical_entropy"),
        ("pullback of the Fisher metric", "fisher_metric"),
        ("spectral alignment", "spectral_alignment"),
    ),
)
class MarkovCategorical(Probe[MarkovCategoricalConfig]):
    """Fits a log-linear head from states to classes: a kernel, to which the module's measures apply."""

    def fit(self, hidden: Tensor, labels: Tensor, generator: torch.Generator) -> Tensors:
        """Return `head` (K, width) and `bias` (K,). The optimisation is convex and deterministic.

        Raises:
            NotApplicable: no states, non-finite states, or unequal numbers of states and labels.
        """
        states = _states(hidden)
        if len(labels) != len(states):
            raise NotApplicable(f"found {len(states)} states and {len(labels)} labels, expected a label per state.")
        mean = states.mean(0)
        white, unwhiten = _whiten(states - mean, torch.finfo(hidden.dtype).eps)
        classes = int(labels.max()) + 1
        start = torch.zeros(classes, white.shape[1] + 1, dtype=torch.double)
        solution = _search(
            white, labels, start, self.config.steps, lambda head: self.config.penalty * head.square().sum()
        )
        raw = solution[:, 1:] @ unwhiten.T
        return {"head": raw, "bias": solution[:, 0] - raw @ mean}

    def predict(self, learned: Tensors, hidden: Tensor) -> Tensor:
        """Return the probability of each class, shape (N, K)."""
        return (hidden.double() @ learned["head"].T + learned["bias"]).softmax(-1).to(hidden.dtype)


def _states(hidden: Tensor) -> Tensor:
    if hidden.ndim != 2 or not len(hidden):  # noqa: PLR2004 - (N, width)
        raise NotApplicable(f"states have shape {tuple(hidden.shape)}, expected (N, width) with N of 1 or more.")
    if not hidden.isfinite().all():
        raise NotApplicable("some states are not finite.")
    return hidden.double()


def _search(white: Tensor, labels: Tensor, start: Tensor, steps: int, price: Callable[[Tensor], Tensor]) -> Tensor:
    """Minimise cross-entropy plus penalty from `start`, and return the head (K, 1 + width), with the bias first."""
    head = start.clone().requires_grad_()
    search = torch.optim.LBFGS([head], max_iter=steps, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        value = torch.nn.functional.cross_entropy(white @ head[:, 1:].T + head[:, 0], labels)
        value = value + price(head)
        value.backward()
        return value

    with torch.enable_grad():
        search.step(loss)
    return head.detach()


def _whiten(centred: Tensor, precision: float, largest: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return states of unit covariance (N, rank), and the linear map to them (width, rank).

    Directions whose size is within rounding error at `precision`, relative to these states or to `largest`, are
    removed, because whitening would amplify them.
    """
    left, sizes, right = torch.linalg.svd(centred, full_matrices=False)
    reference = sizes.amax().clamp_min(max(largest, torch.finfo(torch.double).tiny))
    kept = sizes > max(centred.shape) * precision * reference
    scale = math.sqrt(len(centred))
    return scale * left[:, kept], scale * right[kept].T / sizes[kept]


def table_entropy(joint: Tensor) -> float:
    """Return the entropy of a table of probabilities of any shape, in nats."""
    return float(torch.special.entr(joint.double()).sum())


def mutual_information(joint: Tensor) -> float:
    """Return I(H; W) in nats of a table p(h, w, ...): the first dimension against all others jointly."""
    flat = joint.flatten(1)
    return table_entropy(flat.sum(1)) + table_entropy(flat.sum(0)) - table_entropy(flat)


def table_surplus(joint: Tensor) -> float:
    """Return I(H; W_2 .. W_K | W_1) in nats of a table p(h, w_1, ..., w_K)."""
    first = joint.flatten(2).sum(2)
    return mutual_information(joint) - mutual_information(first)


def estimated_surplus(
    context: Tensor, hidden: Tensor, labels: Tensor, texts: Tensor, is_known: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the loss of each unknown label in nats: from the context alone, and from context and states.

    The mean difference estimates I(H; label | context); summed over the tokens after the first it gives the surplus.
    Split known and unknown positions by document. A control permutes `hidden`, which must give about 0.

    Both heads are log-linear; those of `network_surplus` are not. A quarter of the known texts selects the penalty of
    the context, then a separate penalty of the states, so uninformative states add no loss; then the heads are fitted
    to all known texts.

    Args:
        context: encoding of the tokens in between, shape (N, C), e.g. one-hot.
        hidden: states, shape (N, width).
        labels: tokens (N,).
        texts: text index of each position (N,).
        is_known: booleans (N,), positions used to fit heads and penalties.

    Raises:
        NotApplicable: non-finite states, a label absent from the known positions, or too few known texts.
    """
    is_checked = _checked_positions(labels, texts, is_known)
    blocks, classes = (_states(context), _states(hidden)), int(labels[is_known].max()) + 1
    precision = torch.finfo(torch.promote_types(context.dtype, hidden.dtype)).eps
    choice = _Heads(_coordinates(blocks, is_known & ~is_checked, precision), labels, is_known & ~is_checked, classes)
    of_context = _choose(choice, is_checked, ())
    of_both = _choose(choice, is_checked, of_context)
    heads = _Heads(_coordinates(blocks, is_known, precision), labels, is_known, classes)
    first, second = (heads.costs(penalty_pair, ~is_known)[0] for penalty_pair in (of_context, of_both))
    return first, second


def network_surplus(
    context: Tensor, hidden: Tensor, labels: Tensor, texts: Tensor, is_known: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the same losses as `estimated_surplus`, by networks with one hidden layer, which also represent products.

    The second network adds to the scores of the first, starting at zero, so uninformative states add no loss. Each
    trains until the loss on the validation texts, a quarter of the known texts, stops falling.

    Args:
        context: encoding of the tokens in between, shape (N, C), e.g. one-hot.
        hidden: states, shape (N, width).
        labels: tokens (N,).
        texts: text index of each position (N,).
        is_known: booleans (N,), positions used for training.
        generator: random source of initial weights and batches.

    Raises:
        NotApplicable: non-finite states, a label absent from the known positions, or too few known texts.
    """
    is_checked = _checked_positions(labels, texts, is_known)
    is_fitted = is_known & ~is_checked
    precision = torch.finfo(torch.promote_types(context.dtype, hidden.dtype)).eps
    blocks = _coordinates((_states(context), _states(hidden)), is_fitted, precision)
    classes = int(labels[is_known].max()) + 1

    scores, parts = torch.zeros(len(labels), classes), (is_fitted, is_checked)
    costs: list[Tensor] = []
    for read in (blocks[0], torch.cat(blocks, 1)):
        scores = scores + _fit_scores(read.float(), labels, parts, scores, generator)
        costs.append(_costs(scores[~is_known], labels[~is_known]))
    return costs[0], costs[1]


def _fit_scores(
    read: Tensor, labels: Tensor, parts: tuple[Tensor, Tensor], before: Tensor, generator: torch.Generator
) -> Tensor:
    """Return a network's additive correction of scores (N, classes), at its lowest validation loss.

    Args:
        read: inputs (N, entries).
        labels: classes (N,).
        parts: training and validation positions, booleans (N,).
        before: scores to correct; the initial correction is zero.
        generator: random source of initial weights and batches.
    """
    (is_fitted, is_checked), entries, classes = parts, read.shape[1], before.shape[1]
    first = torch.randn(_HIDDEN_UNITS, entries, generator=generator) / max(entries, 1) ** 0.5
    kept = [first, torch.zeros(_HIDDEN_UNITS), torch.zeros(classes, _HIDDEN_UNITS), torch.zeros(classes)]
    least, stale = float(_costs(before[is_checked], labels[is_checked]).mean()), 0
    weights = [weight.clone().requires_grad_() for weight in kept]
    search = torch.optim.AdamW(weights, lr=3e-3)
    teaching = is_fitted.nonzero()[:, 0]
    while stale < _PATIENCE:
        for chunk in teaching[torch.randperm(len(teaching), generator=generator)].split(_BATCH):
            search.zero_grad()
            with torch.enable_grad():
                _costs(before[chunk] + _scores_of(weights, read[chunk]), labels[chunk]).mean().backward()
            search.step()
        snapshot = [weight.detach().clone() for weight in weights]
        checked = before[is_checked] + _scores_of(snapshot, read[is_checked])
        cost, stale = float(_costs(checked, labels[is_checked]).mean()), stale + 1
        if cost < least:
            kept, least, stale = snapshot, cost, 0
    return _scores_of(kept, read)


def _scores_of(weights: Sequence[Tensor], read: Tensor) -> Tensor:
    functional = torch.nn.functional
    return functional.linear(functional.gelu(functional.linear(read, *weights[:2])), *weights[2:])


def _costs(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each label in nats."""
    return torch.nn.functional.cross_entropy(scores, labels, reduction="none")


def _checked_positions(labels: Tensor, texts: Tensor, is_known: Tensor) -> Tensor:
    """Return the validation positions: those of a quarter of the known texts."""
    if labels[~is_known].max() > labels[is_known].max():
        raise NotApplicable("a label does not occur among the known labels. Leave out rare tokens.")
    known = texts[is_known].unique()
    if len(known) < _CHECKED:
        raise NotApplicable(f"found {len(known)} known texts, expected at least {_CHECKED} to choose penalties.")
    return is_known & torch.isin(texts, known[::_CHECKED])


@dataclass(frozen=True)
class _Heads:
    """Fitting of heads on some positions.

    Attributes:
        blocks: context and states in whitened coordinates.
        labels: labels of all positions.
        is_fitted: training positions.
        classes: number of classes.
    """

    blocks: Sequence[Tensor]
    labels: Tensor
    is_fitted: Tensor
    classes: int

    def costs(self, penalties: Sequence[float], is_asked: Tensor, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Fit a head on the first `len(penalties)` blocks; return the losses at `is_asked`, and the head."""
        used = self.blocks[: len(penalties)]
        white = torch.cat(list(used), 1)
        weights = [_OF_BIAS] + [
            penalty for penalty, block in zip(penalties, used, strict=True) for _ in range(block.shape[1])
        ]
        weight = torch.tensor(weights, dtype=torch.double)
        if start is None:
            start = torch.zeros(self.classes, len(weights), dtype=torch.double)
        steps = MarkovCategoricalConfig().steps
        teaching = white[self.is_fitted], self.labels[self.is_fitted]
        head = _search(*teaching, start, steps, lambda new_head: (weight * new_head.square()).sum())
        scores = white[is_asked] @ head[:, 1:].T + head[:, 0]
        return _costs(scores, self.labels[is_asked]), head


def _choose(heads: _Heads, is_checked: Tensor, before: tuple[float, ...]) -> tuple[float, ...]:
    """Append the penalty of one more block: decrease it until the validation loss stops falling."""
    chosen, least, head = PENALTIES[0], math.inf, None
    for penalty in PENALTIES:
        costs, head = heads.costs((*before, penalty), is_checked, head)
        if not costs.mean() < least:
            break
        chosen, least = penalty, float(costs.mean())
    return (*before, chosen)


def _coordinates(blocks: Sequence[Tensor], is_fitted: Tensor, precision: float) -> list[Tensor]:
    """Return each block without its linear prediction from earlier blocks, whitened on the training positions."""
    coordinates: list[Tensor] = []
    for block in blocks:
        residual = block - block[is_fitted].mean(0)
        size = float(torch.linalg.matrix_norm(residual[is_fitted], 2))
        for before in coordinates:
            residual = residual - before @ (before[is_fitted].T @ residual[is_fitted]) / int(is_fitted.sum())
        coordinates.append(residual @ _whiten(residual[is_fitted], precision, size)[1])
    return coordinates


def categorical_entropy(odds: Tensor, divergence: Divergence = "kl") -> Tensor:
    """Return the distance of distributions (N, V) from point masses: D(diag p || p p'), shape (N,), in closed form.

    Args:
        odds: distributions.
        divergence: kl gives the entropy in nats; hellinger is 1 - sum sqrt(P Q).
    """
    if divergence == "kl":
        return torch.special.entr(odds).sum(-1)
    if divergence == "chi-square":
        return (odds > 0).sum(-1).to(odds.dtype) - 1
    return 1 - odds.pow(2 if divergence == "total-variation" else 1.5).sum(-1)


def fisher_metric(head: Tensor, odds: Tensor) -> Tensor:
    """Return G = W'(diag p - p p')W of a head W (V, width) at p (V,): the Hessian of KL with respect to the state."""
    mean = odds @ head
    scaled = odds.sqrt()[:, None] * head
    return scaled.T @ scaled - torch.outer(mean, mean)


def spectral_alignment(hidden: Tensor, features: Tensor) -> float:
    """Return A in [0, 1]: the share of the next-token features' variance that the whitened states explain.

    It is 1 if the states span the principal directions of the features, and invariant to invertible linear maps of the
    states. A control permutes the features.

    Args:
        hidden: states, shape (N, width).
        features: mean next-token features of each context, shape (N, any width).

    Raises:
        NotApplicable: not more states than their width, where A is meaningless; or constant features.
    """
    states, wanted = _states(hidden), _states(features)
    if len(states) <= states.shape[1]:
        raise NotApplicable(
            f"found {len(states)} states of width {states.shape[1]}, expected more states than the width, "
            "ideally ten times as many."
        )
    white, _ = _whiten(states - states.mean(0), torch.finfo(hidden.dtype).eps)
    centred = wanted - wanted.mean(0)
    spread = (torch.linalg.svdvals(centred)[: white.shape[1]].square() / len(states)).sum()
    if not spread > 0:
        raise NotApplicable("the features are the same for all states.")
    return float((white.T @ centred / len(states)).square().sum() / spread)
