"""patch-dictionary: separate a vision transformer's batch exactly, by zeros that dropout leaves at its embedding.

Idea: dropout after the positions makes entries of a token's gradient exactly zero. Where a position's gradient is zero,
    all its tokens are zero, and few vectors of the column space of dE share these zeros: the tokens of that position.
Equation: dE = sum over b, t of delta_bt x_bt^T, dpos_t = sum over b of delta_bt, with patches x, token gradients delta.
Assumes: honest-but-curious server, one gradient; a learned position embedding, dropout right after it; labels, rates
    and masks need not be known. No more tokens in the batch than features or entries of a patch.
Recovers: exact patches at their positions; images, by the direction of their tokens' gradients and by borders of
    patches; if some tokens were not separated, the images with at least half of their patches.
Fails: no dropout at the embedding; too few features f for the rate p and B images: the zeros, p^B f a position, and p^2
    f a token if hidden units drop out, must leave few dimensions; noise, pruning. Repeated patches.
Source: this project; the dictionary after SPEAR++, Bakarsky et al. 2025, arXiv 2510.24200.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import islice, permutations
from statistics import median
from typing import ClassVar, NamedTuple, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.batch_separation._hidden_units import Hint, hidden_hints
from attacks.batch_separation._hinted_atoms import separate_hinted
from attacks.batch_separation._image_groups import TokenGroups, group_tokens, token_affinities
from attacks.batch_separation._position_atoms import Position, separate
from attacks.batch_separation._token_reader import token_reader
from attacks.batch_separation._token_separation import Separated, Tokens, separate_tokens
from attacks.core.gradient_distance import doubts, gradient_distance, knows_rates, may_be_exact
from attacks.core.outlooks import outlook_of
from attacks.core.patches import (
    Patches,
    embedding_site,
    missing_gradient,
    patch_projection,
    position_embedding,
    rows_of,
)
from attacks.core.preconditions import one_gradient_only
from attacks.core.results import are_known, labels_or_unknown, no_examples, no_guess
from attacks.core.spans import spectrum
from attacks.core.targets.reading import label_guess
from attacks.core.tolerances import EXACT, MATCHES
from fedsim.core.hooks import BatchSeparationAttack, CostEstimate, Effort, Tables
from fedsim.core.registry import attack
from fedsim.core.types import Config, Masks, Observation, OnStep, Reconstruction, Step

_SURE = 1.0  # standard errors between a token's affinity to its own image and to the next image
_MOST_ORDERS = 24  # orders of labels, for each grouping, that are tested on the whole gradient
_ZERO = 1e-6  # singular values below this share of the largest count as zero


class PatchDictionaryConfig(Config):
    """Settings of the search, which runs only if the common zeros allow more vectors than images."""

    restarts: int = Field(default=1024, ge=1, description="maximum number of random restarts per token")


class _Embedding(NamedTuple):
    patches: Patches
    gradient: Tensor  # (width, columns), of the projection's weight, and its bias as the last column
    has_bias: bool
    totals: Tensor  # (N, width), gradients of the patches' positions


@final
@attack(
    "patch-dictionary", summary="exact batches of a vision transformer, from dropout at its embedding", tier="research"
)
class PatchDictionary(BatchSeparationAttack[PatchDictionaryConfig]):
    """Finds the tokens' gradients position by position, then the patches, then the images."""

    effort: ClassVar[Effort] = "search"
    example: ClassVar[Tables] = {
        "model": {"name": "vit-small", "width": 64, "heads": 2, "blocks": 1, "hidden": 16, "dropout": 0.5}
    }

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse several steps, and models without dropout zeros in the gradients of their positions."""
        patches = patch_projection(observation)
        if patches is None:
            return "no layer projects patches of the image"
        positions = position_embedding(observation)
        if positions is None:
            return f"no learned position embedding is added to the output of '{patches.name}'"
        reason = missing_gradient(observation, patches, positions) or _too_many(observation, patches)
        if reason is not None:
            return reason
        if embedding_site(observation) is None:
            return f"no dropout behind '{positions.name}': without its zeros the tokens of a batch cannot be separated"
        return one_gradient_only(observation)

    def outlook(self, observation: Observation) -> CostEstimate:
        """Expect a few null spaces for each position."""
        return outlook_of(observation, 30.0, 0.65, "zeros of dropout at the embedding separate the tokens")

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Separate position after position, solve for the patches, and group them by image."""
        embedding = _embedding(observation)
        count = len(embedding.totals)
        singular = torch.linalg.svdvals(embedding.gradient)
        known = observation.batch_size
        read = spectrum(singular, _ZERO, None if known is None else known * count)
        size = known or -(-read.rank // count)
        diagnostics = {
            "numerical rank": float(read.rank),
            "condition number": read.condition,
            "tokens": float(size * count),
        }
        if not read.is_exact:
            return no_guess(
                observation, "gave up: noise, quantisation or pruning hides the zeros", diagnostics=diagnostics
            )
        separated = self._separate(observation, embedding, read.rank, size, generator, on_step)
        tokens = separated.tokens
        diagnostics |= {
            "tokens found": float(separated.stand_out),
            "tokens separated": float(len(tokens.positions)),
            "tokens completed by the next layer": float(separated.confirmed_patches),
            "positions separated": float((tokens.positions.bincount(minlength=count) == size).sum()),
            "tokens less zeros of a position, median": float(median(separated.spaces)),
        }
        if not len(tokens.positions):
            reason = (
                f"gave up: {separated.stand_out} of {read.rank} tokens were separated, too few to solve for "
                f"patches; a position has about {read.rank - int(median(separated.spaces))} zeros"
            )
            return no_guess(observation, reason, iterations=count, diagnostics=diagnostics)
        return _answer(observation, embedding, tokens, read.rank, size, diagnostics)

    def _separate(
        self,
        observation: Observation,
        embedding: _Embedding,
        rank: int,
        size: int,
        generator: torch.Generator,
        on_step: OnStep,
    ) -> Separated:
        done = 0

        @cache
        def hints() -> Sequence[list[Hint]]:
            return hidden_hints(observation, size, self.config.restarts, generator)

        def separate_one(position: Position, basis: Tensor) -> Position:
            nonlocal done
            known = hints()[position.place] if position.is_hard(basis.shape[1]) else []
            separated = separate_hinted(position, known, basis, generator) if known else position
            if not separated.is_hard(basis.shape[1]) or not known:
                separated = separate(separated, basis, self.config.restarts, generator)
            done += 1
            missing = basis.shape[1] / rank
            on_step(Step(0, done, max(done, len(embedding.totals)), missing, missing, no_examples(observation)))
            return separated

        reader = token_reader(observation, size)
        return separate_tokens(embedding.gradient, embedding.totals, rank, size, reader, separate_one)


def _too_many(observation: Observation, patches: Patches) -> str | None:
    count, entries = patches.pixels.shape
    columns = entries + (f"{patches.name}.bias" in observation.update.tensors)
    tokens, room = count * (observation.batch_size or 1), min(columns, patches.width)
    if tokens <= room:
        return None
    size = f"{patches.width} features" if patches.width < columns else f"{entries} entries of a patch"
    return f"{tokens} tokens for {size}: their gradients cannot be separated; use fewer images or larger patches"


def _embedding(observation: Observation) -> _Embedding:
    patches, positions = patch_projection(observation), position_embedding(observation)
    assert patches is not None
    assert positions is not None
    tensors = observation.update.tensors
    bias = tensors.get(f"{patches.name}.bias")
    parts = [tensors[f"{patches.name}.weight"].double().flatten(1)]
    gradient = torch.column_stack(parts if bias is None else [*parts, bias.double()])
    totals = rows_of(tensors[positions.name].double(), patches, positions.first)
    return _Embedding(patches, gradient, bias is not None, totals)


def _answer(
    observation: Observation, embedding: _Embedding, tokens: Tokens, rank: int, size: int, diagnostics: dict[str, float]
) -> Reconstruction:
    """Group the tokens by image, and return the images with at least half of their tokens."""
    patches, count = embedding.patches, len(embedding.totals)
    gradients, pixels = tokens.atoms[tokens.atom_of], _pixels(tokens, patches)
    affinities = token_affinities(gradients, pixels, tokens.positions, patches, observation.spec.shape)
    groups = group_tokens(affinities, tokens.positions, size)
    residual = _residual(embedding, tokens, is_whole=len(tokens.atoms) == rank)
    best = _settle(observation, tokens, patches, groups, size)
    parts = best.groups.images.bincount(minlength=size)
    kept = (2 * parts >= count).nonzero()[:, 0]
    whole = int((parts == count).sum())
    stopped = f"separated {len(tokens.positions)} of {size * count} tokens, {whole} of {size} images whole"
    if not len(kept):
        return no_guess(observation, stopped, iterations=count, diagnostics=diagnostics)
    objective, meaning = best.distance or (residual, "relative residual of the patch projection's gradient")
    diagnostics |= {"images whole": float(whole), "residual": residual, "margin of the images": best.groups.margin}
    is_whole = whole == size and residual < EXACT
    return Reconstruction.of(
        inputs=best.images[kept],
        labels=best.labels[kept],
        objective=objective,
        iterations=count,
        stop_reason=stopped,
        notes=(
            f"patch projection '{patches.name}', dropout '{_site_name(observation)}'",
            "tokens are sorted into images by the directions of their gradients and by borders of patches",
            f"objective: {meaning}",
            *doubts(observation),
        ),
        diagnostics={name: value for name, value in diagnostics.items() if math.isfinite(value)},
        is_exact=is_whole and best.is_sure and may_be_exact(observation, objective),
    )


def _pixels(tokens: Tokens, patches: Patches) -> Tensor:
    return tokens.rows[tokens.atom_of, : patches.pixels.shape[1]]


def _residual(embedding: _Embedding, tokens: Tokens, *, is_whole: bool) -> float:
    """Return the unexplained share of the gradient; for part of the tokens, the largest error of the bias's input."""
    if is_whole:
        return float((embedding.gradient - tokens.atoms.T @ tokens.rows).norm() / embedding.gradient.norm())
    return float((tokens.rows[:, -1] - 1.0).abs().max()) if embedding.has_bias else 0.0


def _site_name(observation: Observation) -> str:
    index = embedding_site(observation)
    assert index is not None
    return observation.sites[index].name


class _Settled(NamedTuple):
    groups: TokenGroups
    images: Tensor  # (B, *shape), 0 where a patch is missing
    labels: Tensor  # (B,)
    distance: tuple[float, str] | None  # of the whole gradient, where it can be computed

    @property
    def is_sure(self) -> bool:
        return self.groups.margin > _SURE if self.distance is None else self.distance[0] < MATCHES


def _settle(
    observation: Observation, tokens: Tokens, patches: Patches, groups: list[TokenGroups], size: int
) -> _Settled:
    """Return the first grouping, or if the tokens determine all masks, the grouping with the nearest gradient."""
    known = labels_or_unknown(observation, size)
    tried: list[_Settled] = []
    for group in groups:
        images = _images(observation, tokens, patches, group.images, size)
        masks = _masks(observation, tokens, group.images, size)
        labels = label_guess(observation, images, masks, known).labels
        if masks is None or not are_known(labels):
            return _Settled(group, images, labels, None)
        for order in islice(permutations(range(size)), _MOST_ORDERS):
            ordered = labels[list(order)]
            distance = gradient_distance(observation, images, ordered, masks)
            tried.append(_Settled(group, images, ordered, (distance, "1 - cosine of the whole gradient")))
            if distance < MATCHES:
                return tried[-1]
    return min(tried, key=lambda guess: guess.distance or (math.inf, ""))


def _images(observation: Observation, tokens: Tokens, patches: Patches, images: Tensor, size: int) -> Tensor:
    pixels = torch.zeros(size, *patches.pixels.shape, dtype=torch.float64)
    pixels[images, tokens.positions] = _pixels(tokens, patches)
    joined = torch.cat([patches.assemble_example(image_pixels, observation.spec.shape) for image_pixels in pixels])
    return joined.to(next(observation.model.parameters()).dtype)


def _masks(observation: Observation, tokens: Tokens, images: Tensor, size: int) -> Masks | None:
    """Return the masks if the model has dropout only at the patches, all distinct and separated; else None."""
    [site, *later_sites] = observation.sites
    if later_sites or not knows_rates(observation) or len(tokens.atoms) < math.prod(site.shape[:-1]):
        return None
    mask = torch.ones(site.shape, dtype=next(observation.model.parameters()).dtype)
    mask[images, tokens.positions] = (tokens.atoms[tokens.atom_of] != 0).to(mask)
    return (mask,)
