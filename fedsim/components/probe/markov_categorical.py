"""markov-categorical: measures a language model as a chain of kernels: state, then a log-linear head, then token.

Idea: a decoding step is a map to a state and a draw from a head; measures of the two say what a state holds.
Equation: surplus = I(H; W_2.. | W_1); head entropy D(diag p || p p'); metric G = W'(diag p - p p')W;
    alignment A = |E[h g']|^2 / (sum of the r largest eigenvalues of E[g g']), h whitened, g centred, r the rank of h.
Assumes: states and tokens, more states than entries in each; the probe is a log-linear head on whitened states.
Leaks: the surplus of a shared state is what it says of tokens beyond the one that it emits.
Fails: an estimated surplus is a difference of two upper bounds, so no bound; a log-linear head sees no products.
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

PENALTIES = tuple(10 ** (-step / 2) for step in range(13))  # from 1, where a head says next to nothing, to 1e-6
_CHECKED = 4  # every fourth known text chooses penalties
_HIDDEN_UNITS = 256  # of the networks that estimate a surplus, as in their batches and patience chosen here
_BATCH = 128
_PATIENCE = 10  # passes without a lower cost on checked texts
_OF_BIAS = 1e-6  # keeps the bias of a class finite that does not occur


class MarkovCategoricalConfig(Config):
    """Settings of markov-categorical."""

    penalty: float = Field(default=1e-3, gt=0, description="weight of the squared head on whitened states")
    steps: int = Field(default=200, ge=1, description="most steps of the search for the head")


@final
@component(
    "markov-categorical",
    summary="probe: information measures of states and their head",
    paper="2507.19247",
    fidelity="variant",
    deviates="its measures; estimators, normalisation and penalties are chosen here",
    paper_steps=(
        (
            "information surplus of a source",
            "table_surplus",
            "test_the_surplus_of_an_enumerated_source_is_the_conditional_information",
        ),
        (
            "estimated surplus",
            "estimated_surplus",
            "test_the_estimated_surplus_is_that_of_the_source_and_none_for_permuted_states",
        ),
        ("surplus by a network", "network_surplus", "test_a_network_sees_the_product_that_a_log_linear_head_does_not"),
        ("categorical entropy of the head", "categorical_entropy", "test_closed_forms_equal_sums_over_all_pairs"),
        (
            "pullback of the Fisher metric",
            "fisher_metric",
            "test_the_metric_is_that_of_the_divergence_and_a_common_row_changes_nothing",
        ),
        ("spectral alignment", "spectral_alignment", "test_alignment_is_the_sum_over_pairs_of_contexts"),
    ),
)
class MarkovCategorical(Probe[MarkovCategoricalConfig]):
    """Learns the log-linear head that tells classes from states: a kernel, whose measures stand beside it."""

    def fit(self, hidden: Tensor, labels: Tensor, generator: torch.Generator) -> Tensors:
        """Return `head` (K, width) and `bias` (K,). The search is convex and draws nothing.

        Raises:
            NotApplicable: there are no states, or they are no finite numbers, or no vectors with a label each.
        """
        states = _states(hidden)
        if len(labels) != len(states):
            raise NotApplicable(f"there are {len(states)} states and {len(labels)} labels, expected one label a state.")
        mean = states.mean(0)
        white, back = _whiten(states - mean, torch.finfo(hidden.dtype).eps)
        classes = int(labels.max()) + 1
        start = torch.zeros(classes, white.shape[1] + 1, dtype=torch.double)
        solution = _search(
            white, labels, start, self.config.steps, lambda head: self.config.penalty * head.square().sum()
        )
        raw = solution[:, 1:] @ back.T
        return {"head": raw, "bias": solution[:, 0] - raw @ mean}

    def predict(self, learned: Tensors, hidden: Tensor) -> Tensor:
        """Return the probability of each class, shape (N, K)."""
        return (hidden.double() @ learned["head"].T + learned["bias"]).softmax(-1).to(hidden.dtype)


def _states(hidden: Tensor) -> Tensor:
    if hidden.ndim != 2 or not len(hidden):  # noqa: PLR2004 - (N, width)
        raise NotApplicable(f"states have shape {tuple(hidden.shape)}, expected (N, width) with N of 1 or more.")
    if not hidden.isfinite().all():
        raise NotApplicable("some states are no finite numbers.")
    return hidden.double()


def _search(white: Tensor, labels: Tensor, start: Tensor, steps: int, price: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the head (K, 1 + width), the bias first, of the least cost and price, found from a first head."""
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
    """Return states of unit covariance (N, rank), and the map to them (width, rank).

    Directions that vary no more than rounding at `precision` does, of these states or of a size that they were
    computed from, are left out: whitening would blow them up.
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
    """Return I(H; W) in nats of a table p(h, w, ...), the first dimension against all others together."""
    flat = joint.flatten(1)
    return table_entropy(flat.sum(1)) + table_entropy(flat.sum(0)) - table_entropy(flat)


def table_surplus(joint: Tensor) -> float:
    """Return I(H; W_2 .. W_K | W_1) in nats of a table p(h, w_1, ..., w_K)."""
    first = joint.flatten(2).sum(2)
    return mutual_information(joint) - mutual_information(first)


def estimated_surplus(
    context: Tensor, hidden: Tensor, labels: Tensor, texts: Tensor, is_known: Tensor
) -> tuple[Tensor, Tensor]:
    """Return for each position that is not known the cost of its label in nats: without the states, and with them.

    The mean difference estimates I(H; label | context), summed over the tokens behind the first for the surplus. Split
    known and other positions by document. A control permutes `hidden`, which must give about 0.

    Both heads are log-linear; those of `network_surplus` are not. A quarter of the known texts chooses the penalty of
    the context, and then a penalty of the states' own, so that states that say nothing cost nothing; then all known
    texts teach.

    Args:
        context: the tokens in between as numbers, shape (N, C), for instance one-hot.
        hidden: states, shape (N, width).
        labels: tokens (N,).
        texts: the number of the text of each position (N,).
        is_known: booleans (N,), from which heads and penalties are learned.

    Raises:
        NotApplicable: states are no finite vectors, a label is not among the known ones, or too few texts are known.
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
    """Return the same two costs as `estimated_surplus`, by networks with one hidden layer, which see products too.

    The second network adds to the scores of the first, from nothing, so states that say nothing cost nothing. Each
    learns until the checked texts, a quarter of the known ones, cost no less.

    Args:
        context: the tokens in between as numbers, shape (N, C), for instance one-hot.
        hidden: states, shape (N, width).
        labels: tokens (N,).
        texts: the number of the text of each position (N,).
        is_known: booleans (N,), from which the networks learn.
        generator: of first weights and batches.

    Raises:
        NotApplicable: states are no finite vectors, a label is not among the known ones, or too few texts are known.
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
    """Return what a network adds to scores (N, classes); of all that it was while it learned, the least cost counts.

    Args:
        read: what it reads (N, entries).
        labels: classes (N,).
        parts: positions that teach, and those whose cost counts, booleans (N,).
        before: scores that it adds to; it begins with adding nothing.
        generator: of first weights and batches.
    """
    (is_fitted, is_checked), entries, classes = parts, read.shape[1], before.shape[1]
    first = torch.randn(_HIDDEN_UNITS, entries, generator=generator) / max(entries, 1) ** 0.5
    kept = [first, torch.zeros(_HIDDEN_UNITS), torch.zeros(classes, _HIDDEN_UNITS), torch.zeros(classes)]
    least, since = float(_costs(before[is_checked], labels[is_checked]).mean()), 0
    weights = [weight.clone().requires_grad_() for weight in kept]
    search = torch.optim.AdamW(weights, lr=3e-3)
    teaching = is_fitted.nonzero()[:, 0]
    while since < _PATIENCE:
        for some in teaching[torch.randperm(len(teaching), generator=generator)].split(_BATCH):
            search.zero_grad()
            with torch.enable_grad():
                _costs(before[some] + _scores_of(weights, read[some]), labels[some]).mean().backward()
            search.step()
        now = [weight.detach().clone() for weight in weights]
        checked = before[is_checked] + _scores_of(now, read[is_checked])
        cost, since = float(_costs(checked, labels[is_checked]).mean()), since + 1
        if cost < least:
            kept, least, since = now, cost, 0
    return _scores_of(kept, read)


def _scores_of(weights: Sequence[Tensor], read: Tensor) -> Tensor:
    functional = torch.nn.functional
    return functional.linear(functional.gelu(functional.linear(read, *weights[:2])), *weights[2:])


def _costs(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the cost of each label in nats."""
    return torch.nn.functional.cross_entropy(scores, labels, reduction="none")


def _checked_positions(labels: Tensor, texts: Tensor, is_known: Tensor) -> Tensor:
    """Return which known positions choose penalties or say when to stop: those of a quarter of the known texts."""
    if labels[~is_known].max() > labels[is_known].max():
        raise NotApplicable("a label does not occur among the known ones. Leave out rare tokens.")
    known = texts[is_known].unique()
    if len(known) < _CHECKED:
        raise NotApplicable(f"there are {len(known)} known texts, expected {_CHECKED} or more to choose penalties by.")
    return is_known & torch.isin(texts, known[::_CHECKED])


@dataclass(frozen=True)
class _Heads:
    """Heads that are learned from some positions.

    Attributes:
        blocks: context and states in white coordinates.
        labels: of all positions.
        is_fitted: the positions that teach.
        classes: how many labels there are.
    """

    blocks: Sequence[Tensor]
    labels: Tensor
    is_fitted: Tensor
    classes: int

    def costs(self, penalties: Sequence[float], is_asked: Tensor, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the costs of labels by a head on as many blocks as there are penalties, and the head."""
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
    """Return penalties with that of one more block: from strong to weak, until checked texts cost no less."""
    chosen, least, head = PENALTIES[0], math.inf, None
    for penalty in PENALTIES:
        costs, head = heads.costs((*before, penalty), is_checked, head)
        if not costs.mean() < least:
            break
        chosen, least = penalty, float(costs.mean())
    return (*before, chosen)


def _coordinates(blocks: Sequence[Tensor], is_fitted: Tensor, precision: float) -> list[Tensor]:
    """Return each block less what the blocks before tell of it, white on the positions that teach."""
    coordinates: list[Tensor] = []
    for block in blocks:
        rest = block - block[is_fitted].mean(0)
        size = float(torch.linalg.matrix_norm(rest[is_fitted], 2))
        for before in coordinates:
            rest = rest - before @ (before[is_fitted].T @ rest[is_fitted]) / int(is_fitted.sum())
        coordinates.append(rest @ _whiten(rest[is_fitted], precision, size)[1])
    return coordinates


def categorical_entropy(odds: Tensor, divergence: Divergence = "kl") -> Tensor:
    """Return how far distributions (N, V) are from certain ones: D(diag p || p p'), shape (N,), by closed forms.

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
    """Return G = W'(diag p - p p')W of a head W (V, width) at p (V,): the curvature of KL in the state."""
    mean = odds @ head
    scaled = odds.sqrt()[:, None] * head
    return scaled.T @ scaled - torch.outer(mean, mean)


def spectral_alignment(hidden: Tensor, features: Tensor) -> float:
    """Return A in [0, 1]: how much of what features of the next token vary by the whitened states hold.

    It is 1 where the states span the strongest directions of the features, and no invertible linear map of the states
    changes it. A control permutes the features.

    Args:
        hidden: states, shape (N, width).
        features: of the next token, each context's mean, shape (N, any width).

    Raises:
        NotApplicable: there are not more states than entries in each, where A says nothing; or features never change.
    """
    states, wanted = _states(hidden), _states(features)
    if len(states) <= states.shape[1]:
        raise NotApplicable(
            f"there are {len(states)} states of width {states.shape[1]}, expected more; ten times is good."
        )
    white, _ = _whiten(states - states.mean(0), torch.finfo(hidden.dtype).eps)
    centred = wanted - wanted.mean(0)
    most = (torch.linalg.svdvals(centred)[: white.shape[1]].square() / len(states)).sum()
    if not most > 0:
        raise NotApplicable("the features are the same for all states.")
    return float((white.T @ centred / len(states)).square().sum() / most)
