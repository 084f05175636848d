"""Grow sentences from left to right by the spans of two attention layers, in a beam without a threshold.

D_1 of the first layer (`_subspaces`) ranks tokens. D_2 of the second layer depends on all earlier tokens and ranks
prefixes. The score of a prefix is sum_t log (D_2 of its token t / mean D_2 of that token after random prefixes). The
normalisation is needed because noise and dropout raise the distance of some tokens more than that of others, whatever
the prefix is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from attacks.core.attention import attentions
from attacks.text._prefixes import Front
from attacks.text._subspaces import Subspace, subspace_of
from attacks.text._words import counts_of, following_of, lengths_of, words_of
from fedsim.core.nets.layer_calls import read_by
from fedsim.core.nets.masks import disable_dropout, inject_masks
from fedsim.core.types import DropoutSite, Masks, Observation

_FLOOR = 1e-9
_SHARE = 0.05
_PER_SENTENCE = 50
_AT_ONCE = 2048
_TOKENS = 3  # dimensions of a mask with a row per token
_MANY = 1_000_000
_LAYERS = 2
_SEEN = 40  # expected occurrences of each token in the random texts

OnPrefixes = Callable[[Tensor, float], None]


@dataclass(frozen=True)
class CandidateReader:
    """The model that computes the inputs of candidates, in double precision.

    Attributes:
        spaces: spans of the first and the second attention layer's inputs for the batch.
        masks: masks of one sentence, (1, ...) per site, if they are known; otherwise empty, and dropout is disabled.
    """

    model: nn.Module
    spaces: tuple[Subspace, Subspace]
    sites: tuple[DropoutSite, ...] = ()
    masks: Masks = ()

    @torch.no_grad()
    def distances(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return D_1 and D_2 at every position of tokens (N, t), each (N, t)."""
        parts = [self._read(part) for part in tokens.split(_AT_ONCE)]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    def _read(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        layers = [space.layer for space in self.spaces]
        dropping = inject_masks(self.sites, self._cut(*tokens.shape)) if self.masks else disable_dropout()
        read = read_by(self.model, layers, tokens, dropping)
        first, second = (space.distance(vectors) for space, vectors in zip(self.spaces, read, strict=True))
        return first, second

    def _cut(self, count: int, length: int) -> Masks:
        """Return the masks of one sentence, (1, T, d) or (1, heads, T, T), for `count` candidates of that length."""
        whole = (mask.expand(count, *mask.shape[1:]) for mask in self.masks)
        return tuple(mask[:, :length] if mask.ndim == _TOKENS else mask[:, :, :length, :length] for mask in whole)


@dataclass(frozen=True)
class TokenPool:
    """Candidate tokens, and how often each may occur after the first position of a sentence; both (K,).

    Attributes:
        nearest: smallest D_1 of these tokens.
    """

    tokens: Tensor
    max_counts: Tensor
    nearest: float


class PrefixBeam(NamedTuple):
    """Prefixes (N, t), best first, and their scores (N,)."""

    prefixes: Tensor
    scores: Tensor


def unreadable(observation: Observation) -> str | None:
    """Return why no prefixes can be grown, as a clause without a full stop, or None."""
    layers = _layers(observation.model)
    if len(layers) < _LAYERS:
        return "the model does not have two attention blocks that begin with linear layers"
    if Front(observation.model, layers).looks_ahead():
        return "tokens attend to later tokens, and the search extends sentences from their beginning"
    width = observation.model.get_submodule(layers[0]).get_parameter("weight").shape[1]
    tokens = sum(lengths_of(observation))
    if tokens >= width:
        return f"the batch has {tokens} tokens and the model is {width} wide: they span everything"
    for layer in layers:
        if subspace_of(observation, layer, tokens) is None:
            return f"no gradient of queries, keys or values at '{layer}' is shared"
    return None


def _layers(model: nn.Module) -> list[str]:
    return [name for name in attentions(model) if isinstance(model.get_submodule(name), nn.Linear)][:_LAYERS]


def readers_of(observation: Observation) -> list[CandidateReader]:
    """Return a single reader, or a reader for each sentence if its masks are known."""
    model = observation.working_copy("train", torch.float64).requires_grad_(False)
    tokens = sum(lengths_of(observation))
    first, second = (subspace_of(observation, layer, tokens) for layer in _layers(model))
    assert first is not None
    assert second is not None
    if observation.masks is None or not observation.sites:
        return [CandidateReader(model, (first, second))]
    masks = [mask.double() for mask in observation.masks[0]]
    rows = range(observation.batch_size or 1)
    return [
        CandidateReader(model, (first, second), observation.sites, tuple(mask[row : row + 1] for mask in masks))
        for row in rows
    ]


def pool_of(observation: Observation, reader: CandidateReader, lengths: Sequence[int]) -> TokenPool:
    """Return the candidate tokens: the input tokens that the gradient shows, otherwise the nearest by D_1.

    In the second layer a text that repeats its first token looks like a continuation. So if next tokens and their
    approximate counts are known, each token may occur after the first position at most once more than its count.
    """
    vocabulary = torch.arange(observation.spec.vocabulary or 0)
    distances = CandidateReader(reader.model, reader.spaces).distances(vocabulary[:, None])[0][:, 0]
    read, following = words_of(observation).read, following_of(observation)
    if read is not None and len(read):
        tokens = read
    else:
        count = min(len(vocabulary), max(_PER_SENTENCE * len(lengths), int(_SHARE * len(vocabulary))))
        tokens = distances.argsort()[:count]
    limits = torch.full((len(tokens),), _MANY)
    if following is not None and len(following.tokens):
        limits[:] = 0
        for token, count in zip(following.tokens.tolist(), counts_of(following, lengths).tolist(), strict=True):
            limits[tokens == token] = count + 1
    return TokenPool(tokens, limits, float(distances[tokens].min()))


def grow_beam(
    reader: CandidateReader,
    pool: TokenPool,
    lengths: Sequence[int],
    width: int,
    generator: torch.Generator,
    on_prefixes: OnPrefixes,
) -> dict[int, PrefixBeam]:
    """Return the beam at every length of a sentence.

    Args:
        reader: computes the distances of candidates.
        pool: candidate tokens.
        lengths: lengths of the sentences.
        width: beam width.
        generator: for the random texts that give the mean D_2.
        on_prefixes: called at every length with the prefixes and the best score per token.
    """
    usual = _usual(reader, pool.tokens, max(lengths), generator)
    beam = PrefixBeam(torch.empty(1, 0, dtype=torch.long), torch.zeros(1, dtype=torch.float64))
    ends: dict[int, PrefixBeam] = {}
    for length in range(1, max(lengths) + 1):
        row, token = _list_continuations(beam.prefixes, pool)
        prefixes = torch.cat((beam.prefixes[row], pool.tokens[token][:, None]), 1)
        if not len(prefixes):
            break
        second = reader.distances(prefixes)[1][:, -1]
        scores = beam.scores[row] + ((second + _FLOOR) / (usual[token] + _FLOOR)).log()
        kept = scores.argsort()[:width]
        beam = PrefixBeam(prefixes[kept], scores[kept])
        on_prefixes(beam.prefixes, float(beam.scores[0]) / length)
        if length in lengths:
            ends[length] = beam
    return ends


def apart(sentences: Sequence[Tensor], overlap: float, count: int) -> list[Tensor]:
    """Return the first `count` sentences (t,) that share less than `overlap` of their positions with earlier ones."""
    chosen: list[Tensor] = []
    for sentence in sentences:
        if len(chosen) < count and not any(_is_same(sentence, other_sentence, overlap) for other_sentence in chosen):
            chosen.append(sentence)
    return chosen


def _is_same(sentence: Tensor, candidate: Tensor, overlap: float) -> bool:
    length = min(len(sentence), len(candidate))
    return float((sentence[:length] == candidate[:length]).double().mean()) >= overlap


def _list_continuations(prefixes: Tensor, pool: TokenPool) -> tuple[Tensor, Tensor]:
    """Return the allowed continuations as two index lists: prefix and token of the pool."""
    used = (prefixes[:, 1:, None] == pool.tokens).sum(1)
    goes_on = used < pool.max_counts if prefixes.shape[1] else torch.ones_like(used, dtype=torch.bool)
    row, token = goes_on.nonzero(as_tuple=True)
    return row, token


def _usual(reader: CandidateReader, tokens: Tensor, length: int, generator: torch.Generator) -> Tensor:
    """Return each token's mean D_2 after random prefixes of the pool's tokens, shape (K,)."""
    texts = -(-_SEEN * len(tokens) // length)
    chosen = torch.randint(len(tokens), (texts, length), generator=generator)
    second = reader.distances(tokens[chosen])[1].flatten()
    sums = torch.zeros(len(tokens), dtype=torch.float64).index_add_(0, chosen.flatten(), second)
    return sums / torch.bincount(chosen.flatten(), minlength=len(tokens)).clamp_min(1)
