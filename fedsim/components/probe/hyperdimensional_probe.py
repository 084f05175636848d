"""hyperdimensional-probe: maps states to codes that bind and bundle concepts, and decodes them by unbinding.

Idea: the attacker designs the code space: each concept has a random code, so one vector encodes which words are bound.
Equation: v = sign(a*b + c*d), codes in {-1, 1}^D, ties to -1; E learns state -> v; v*c is near d, since c*c = 1. As a
    probe: P(class) = softmax(s cos(sign E(h), code)), s fitted on held-out examples.
Assumes: states with the concepts of each; for a query, the other words of the text.
Leaks: an attacker that obtains a shared state learns the words of the text and which words are bound.
Fails: with a concept without examples: no state maps to its random code; with pairs that never occurred together.
Source: Bronzini et al. 2025, arXiv 2509.25045; sizes, rates, s and the chance of an extraction are chosen here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fedsim.core.errors import FedsimError, NotApplicable
from fedsim.core.hooks import Probe
from fedsim.core.registry import component
from fedsim.core.types import Config, Tensors

_BLOCKS = 2
_HELD_OUT = 5  # every fifth example only calibrates the sharpness
_SHARPNESS = 2.0 ** torch.arange(0, 8.5, 0.5)


class HyperdimensionalProbeConfig(Config):
    """Settings of hyperdimensional-probe."""

    dimension: int = Field(default=1024, ge=8, description="D, entries of a code")
    width: int = Field(default=512, ge=8, description="hidden units of the encoder")
    epochs: int = Field(default=60, ge=1, description="passes of the encoder over its examples")
    rate: float = Field(default=1e-3, gt=0, description="first learning rate; it falls to 0 along a cosine")
    dropout: float = Field(default=0.2, ge=0, lt=1, description="of hidden units, in training")


@final
@component(
    "hyperdimensional-probe",
    summary="probe: codes that bind and bundle concepts",
    tier="research",
    paper="2509.25045",
    fidelity="variant",
    deviates="as a probe it classifies by the nearest code; sizes, rates and an extraction's chance are chosen here",
    paper_steps=(
        ("codes, binding and bundling", "bind"),
        ("states of the upper layers as a sum of means", "pool_layers"),
        ("encoder from states to codes", "HyperdimensionalProbe.learn"),
        ("unbinding queries over the known words", "extract"),
        ("extraction from a model's states", "fedsim.questions.binding.BindingQuestion"),
    ),
)
class HyperdimensionalProbe(Probe[HyperdimensionalProbeConfig]):
    """Predicts classes by the code to which an encoder maps a state; `learn` trains it for any codes."""

    def fit(self, hidden: Tensor, labels: Tensor, generator: torch.Generator) -> Tensors:
        """Return the encoder, `book` (K, D), and `sharpness`.

        Raises:
            NotApplicable: fewer than two classes, non-finite states, or unequal numbers of states and labels.
        """
        if len(labels) < 2 or int(labels.max()) < 1:  # noqa: PLR2004 - classes
            raise NotApplicable("a probe needs examples of at least two classes, found a single class.")
        book = make_codebook(int(labels.max()) + 1, self.config.dimension, generator)
        order = torch.randperm(len(labels), generator=generator)
        held, trained = order[::_HELD_OUT], order[[i for i in range(len(order)) if i % _HELD_OUT]]
        learned = self.learn(hidden[trained], book[labels[trained]], generator)
        similarities = similarity(self.encode(learned, hidden[held]), book)
        costs = torch.stack([_doubt(times * similarities, labels[held]) for times in _SHARPNESS])
        return {**learned, "book": book, "sharpness": _SHARPNESS[costs.argmin()]}

    def predict(self, learned: Tensors, hidden: Tensor) -> Tensor:
        """Return the probability of each class, shape (N, K)."""
        similarities = similarity(self.encode(learned, hidden), learned["book"])
        return (learned["sharpness"] * similarities).softmax(-1).to(hidden.dtype)

    def learn(self, hidden: Tensor, codes: Tensor, generator: torch.Generator) -> Tensors:
        """Return an encoder from states (N, width) to codes (N, D), by name of its tensors.

        Raises:
            NotApplicable: non-finite states, or unequal numbers of states and codes.
        """
        if hidden.ndim != 2 or len(hidden) != len(codes) or not len(hidden):  # noqa: PLR2004 - (N, width)
            raise NotApplicable(f"states have shape {tuple(hidden.shape)}, expected ({len(codes)}, width).")
        if not hidden.isfinite().all():
            raise NotApplicable("some states are not finite.")
        hidden = hidden.detach().float()
        scale = hidden.std(0, correction=0)
        scales = {"mean": hidden.mean(0), "scale": torch.where(scale > 0, scale, 1.0)}
        layers = _first_layers(hidden.shape[1], self.config.width, codes.shape[1], generator)
        with torch.enable_grad():
            self._train(layers, (hidden - scales["mean"]) / scales["scale"], codes.float(), generator)
        return {**scales, **{name: layer.detach() for name, layer in layers.items()}}

    def _train(self, layers: Tensors, states: Tensor, codes: Tensor, generator: torch.Generator) -> None:
        parts = math.ceil(len(states) / 32)
        search = torch.optim.AdamW(list(layers.values()), lr=self.config.rate, weight_decay=1e-4, fused=True)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(search, self.config.epochs * parts)

        def drop(units: Tensor) -> Tensor:
            kept = torch.rand(units.shape, generator=generator) >= self.config.dropout
            return units * kept / (1 - self.config.dropout)

        for _ in range(self.config.epochs):
            for chunk in torch.randperm(len(states), generator=generator).chunk(parts):
                encoded, wanted = _encode(layers, states[chunk], drop), codes[chunk]
                loss = F.binary_cross_entropy_with_logits(encoded, (wanted + 1) / 2) + 0.1 * F.mse_loss(encoded, wanted)
                search.zero_grad()
                loss.backward()
                search.step()
                falling.step()

    def encode(self, learned: Tensors, hidden: Tensor) -> Tensor:
        """Return the codes of states (N, width), entries 1 and -1, shape (N, D)."""
        with torch.no_grad():
            return _signs(
                _encode(
                    learned, (hidden.float() - learned["mean"]) / learned["scale"], lambda hidden_states: hidden_states
                )
            )


def _doubt(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the summed cross-entropy in nats, plus that of one pseudo-example with a uniform label."""
    return F.cross_entropy(scores, labels, reduction="sum") - scores.log_softmax(-1).mean()


def _first_layers(width: int, hidden: int, dimension: int, generator: torch.Generator) -> Tensors:
    shapes = {"first": (hidden, width), **{f"block{i}": (hidden, hidden) for i in range(_BLOCKS)}}
    shapes["last"] = (dimension, hidden)
    weights = {name: torch.randn(shape, generator=generator) / shape[1] ** 0.5 for name, shape in shapes.items()}
    biases = {f"{name}.bias": torch.zeros(shape[0]) for name, shape in shapes.items()}
    return {name: layer.requires_grad_() for name, layer in {**weights, **biases}.items()}


def _encode(layers: Tensors, states: Tensor, drop: Callable[[Tensor], Tensor]) -> Tensor:
    def linear(name: str, read: Tensor) -> Tensor:
        return F.linear(read, layers[name], layers[f"{name}.bias"])

    units = drop(F.gelu(linear("first", states)))
    for block in range(_BLOCKS):
        units = units + drop(F.gelu(linear(f"block{block}", units)))
    return linear("last", units)


def make_codebook(concepts: int, dimension: int, generator: torch.Generator) -> Tensor:
    """Return a random code for each concept, entries 1 and -1, shape (concepts, dimension)."""
    return 2.0 * torch.randint(0, 2, (concepts, dimension), generator=generator) - 1


def bind(*codes: Tensor) -> Tensor:
    """Return the product of codes (..., D): dissimilar to each; binding it again with one returns the others' product.

    Raises:
        FedsimError: the code sizes differ.
    """
    _check_sizes(codes)
    return torch.stack(torch.broadcast_tensors(*codes)).prod(0)


def bundle(*codes: Tensor) -> Tensor:
    """Return the sign of the sum of codes (..., D), which is similar to each of them; ties give -1.

    Raises:
        FedsimError: the code sizes differ.
    """
    _check_sizes(codes)
    return _signs(torch.stack(torch.broadcast_tensors(*codes)).sum(0))


def similarity(codes: Tensor, book: Tensor) -> Tensor:
    """Return the cosine of each code (..., D), with entries 1 and -1, with each code of a book (K, D), shape (..., K).

    Raises:
        FedsimError: the code sizes differ.
    """
    _check_sizes((codes, book))
    return codes @ book.T / book.shape[-1]


def _signs(sums: Tensor) -> Tensor:
    return torch.where(sums > 0, 1.0, -1.0)


def _check_sizes(codes: Sequence[Tensor]) -> None:
    sizes = sorted({code.shape[-1] for code in codes})
    if len(sizes) > 1:
        raise FedsimError(
            f"codes have {sizes[0]} and {sizes[1]} entries, expected equal sizes. Build both from the same codebook."
        )


def pool_layers(states: Tensor, starts: Sequence[int]) -> Tensor:
    """Return the sum of the k cluster means of a text's states in several layers, shape (width,).

    Args:
        states: states of the last token, shape (layers, width).
        starts: layers of the initial means. An empty cluster gets the layer farthest from its mean.

    Raises:
        FedsimError: more means than layers.
    """
    if len(starts) > len(states):
        raise FedsimError(f"found {len(states)} layers, expected at least {len(starts)}: a layer for each mean.")
    means, nearest = states[list(starts)], torch.tensor([-1])
    while True:
        distances = torch.cdist(states, means)
        labels = distances.argmin(1)
        for empty in sorted(set(range(len(means))) - set(labels.tolist())):
            far = distances.gather(1, labels[:, None])[:, 0]
            is_single = torch.bincount(labels, minlength=len(means))[labels] == 1
            labels[far.masked_fill(is_single, -1).argmax()] = empty
        if torch.equal(labels, nearest):
            return means.sum(0)
        nearest = labels
        means = torch.stack([states[labels == number].mean(0) for number in range(len(means))])


class Extracted(NamedTuple):
    """Concept extracted from a code, besides the known concepts.

    Attributes:
        concept: index in the codebook; None below the similarity threshold.
        similarity: between the code without the removed concepts, and the concept's code.
        removed_concepts: known concepts that were unbound from the code.
        chance: probability that a random code is as similar to any of the concepts, under any of the queries.
    """

    concept: int | None
    similarity: float
    removed_concepts: tuple[int, ...]
    chance: float


def extract(code: Tensor, book: Tensor, known: Sequence[int], threshold: float = 0.1) -> Extracted:
    """Return the concept most similar to a code after unbinding subsets of known concepts.

    Args:
        code: entries 1 and -1, shape (D,).
        book: code of each concept, shape (K, D).
        known: concepts of the text, which are no answer; all subsets are unbound in turn.
        threshold: minimum similarity of an answer.

    Raises:
        FedsimError: the code sizes differ, or all concepts are known.
    """
    if len(set(known)) >= len(book):
        raise FedsimError(f"all {len(book)} concepts are known, so none is left to extract.")
    queries = [subset for count in range(len(known), -1, -1) for subset in itertools.combinations(known, count)]
    similarities = torch.stack([similarity(bind(code, *book[list(subset)]), book) for subset in queries])
    answers = similarities.clone()
    answers[:, list(known)] = -math.inf
    best, concepts = answers.max(1)
    for number, subset in enumerate(queries):  # a removed concept still the most similar: the query was not in the code
        if subset and similarities[number, list(subset)].max() > max(threshold, float(best[number])):
            best[number] = -math.inf
    place = int(best.argmax())
    value = float(best[place])
    chance = chance_of(value, len(code), len(queries) * (len(book) - len(set(known))))
    return Extracted(int(concepts[place]) if value >= threshold else None, value, queries[place], chance)


def chance_of(value: float, dimension: int, compared: int) -> float:
    """Return the probability that one of `compared` independent random codes has a cosine of at least `value`."""
    from scipy.special import bdtrc  # noqa: PLC0415 - a list of methods does not wait for it

    if value == -math.inf:
        return 1.0
    agreeing = round((1 + value) / 2 * dimension)
    tail = float(bdtrc(agreeing - 1, dimension, 0.5)) if agreeing > 0 else 1.0
    return -math.expm1(compared * math.log1p(-tail)) if tail < 1 else 1.0
