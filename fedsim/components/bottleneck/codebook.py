"""codebook: replaces a layer's activation by the mean of the k codes most similar to it.

Idea: Few codes per position make activations sparse and readable; groups have their own codebooks.
Equation: o = (1 / k) sum of e_c over the k largest <LayerNorm(a), e_c / ||e_c||>, dL/dLayerNorm(a) := dL/do
Assumes: named modules whose activation width is known or set.
Leaks: the nonzero rows of the codebook's gradient are the codes that fired; at most k log2 C bits per position pass the
    codebook.
Fails: as a defense, since the codes that fired describe the input.
Source: Tamkin, Taufeeque, Goodman 2023, arXiv 2310.17230, section 2. The paper writes the sum of codes; its code and
    this default take the mean.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from fnmatch import fnmatchcase
from functools import partial
from typing import ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.components.bottleneck._codebook import (
    CodebookLayer,
    CodeLoss,
    Combine,
    Ranking,
    Similarity,
    find_fired_codes,
)
from fedsim.components.bottleneck._widths import width_into, width_of
from fedsim.core.errors import FedsimError, NotApplicable, did_you_mean
from fedsim.core.hooks import IMAGES_AND_TEXT, Bottleneck, PublicFederation
from fedsim.core.nets.kv_cache import whole_texts
from fedsim.core.nets.masks import disable_dropout, dropout_sites, inject_masks
from fedsim.core.registry import component
from fedsim.core.types import Config, Modality, Reconstruction, Truth

_EXAMPLES = 1000
_LLOYD_STEPS = 20


class CodebookConfig(Config):
    """Settings of codebooks."""

    at: tuple[str, ...] = Field(
        min_length=1,
        description="names, or patterns such as 'layers.*.mlp', of the modules to quantise",
        examples=[("2",)],
    )
    side: Literal["output", "input"] = Field(
        default="output",
        description="replaced side of these modules; input: their input, such as the heads before o_proj",
    )
    codes: int = Field(default=512, ge=1, description="codes C per codebook")
    active: int = Field(default=8, ge=1, description="codes k per position and group")
    first_active: int | None = Field(
        default=None, ge=1, description="k at the first training step, which falls to `active`; absent: k is constant"
    )
    decay_steps: int = Field(default=1000, ge=2, description="training steps until k reaches `active`")
    groups: int = Field(
        default=1,
        ge=1,
        description="parts of an activation with their own codebooks, such as the heads of an attention",
    )
    width: int | None = Field(
        default=None, ge=1, description="entries of the activation; unset: inferred from the layers before it"
    )
    similarity: Similarity = Field(
        default="dot",
        description="dot: product with the normalised code; cosine: the same ranking; euclid: the nearest code",
    )
    combine: Combine = Field(default="mean", description="how active codes are combined; the paper writes sum")
    loss: CodeLoss = Field(
        default="aeloss",
        description="loss of the codes; base: the task; aeloss: also the squared distance to the activation; vqvae: "
        "only this distance, and activations are pulled to their codes; fullaeloss: all three",
    )
    beta: float = Field(default=0.25, ge=0, description="vqvae, fullaeloss: weight of pulling activations to codes")
    penalty: float = Field(default=0.0, ge=0, description="weight of the norms of the codes that fired, such as 0.01")
    penalty_norm: float = Field(default=2.0, ge=1, description="p of these norms")
    initialisation: Literal["normal", "k-means"] = Field(
        default="normal", description="first codes: N(0, 1), or centres of the activations of public examples"
    )
    revive_after: int = Field(
        default=0, ge=0, description="steps after which an unused code moves onto an activation; 0: never"
    )
    revive_noise: float = Field(default=1e-4, ge=0, description="noise on a revived code, in units of its norm")


@final
@component(
    "codebook",
    summary="replaces activations by a few codes",
    tier="research",
    paper="2310.17230",
    fidelity="reproduction",
    paper_steps=(
        (
            "the k codes of largest cosine replace the activation",
            "fedsim.components.bottleneck._codebook.CodebookLayer.forward",
        ),
        ("straight-through gradient and code loss", "fedsim.components.bottleneck._codebook._StraightThrough"),
        ("control by forcing codes", "force_codes"),
    ),
)
class Codebook(Bottleneck[CodebookConfig]):
    """Puts a codebook after, or before, each named module."""

    modalities: ClassVar[frozenset[Modality]] = IMAGES_AND_TEXT

    @property
    def batch_reader(self) -> str | None:
        """Setting that needs the whole batch (a mean over positions, a set, or counts); None if unset."""
        if self.config.first_active is not None:
            return "codebook with first_active"
        if self.config.penalty:
            return "codebook with penalty"
        if self.config.revive_after:
            return "codebook with revive_after"
        return None if self.config.loss == "base" else f"codebook with loss '{self.config.loss}' (not with 'base')"

    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Return `model` with the codebooks.

        Raises:
            NotApplicable: no module has that name, it already has a codebook, or the codes do not fit its width.
        """
        largest = max(self.config.active, self.config.first_active or 0)
        if largest > self.config.codes:
            raise NotApplicable(
                f"component 'codebook': {largest} active codes, expected at most {self.config.codes}, all codes."
            )
        if largest != (self.config.first_active or largest):
            raise NotApplicable(
                f"component 'codebook': k cannot fall from first_active {self.config.first_active} to "
                f"{self.config.active} active codes."
            )
        for place in self._find_modules(model):
            parent, _, last = place.rpartition(".")
            module, owner = model.get_submodule(place), model.get_submodule(parent)
            if isinstance(module, _Quantised) or isinstance(owner, _Quantised):
                raise NotApplicable(f"component 'codebook': '{place}' has a codebook already. Name it once.")
            if isinstance(owner, nn.MultiheadAttention):
                raise NotApplicable(f"component 'codebook': '{place}' is never called; name the attention itself.")
            layer = self._layer(place, self._width(model, place), generator)
            owner.add_module(last, _Quantised(module, layer, self.config.side))
        return model

    def initialise(self, model: nn.Module, public: Tensor, generator: torch.Generator) -> None:
        """Initialise the codes by k-means on the plain model's activations, if `initialisation = 'k-means'`.

        Raises:
            NotApplicable: no public examples are available.
        """
        if self.config.initialisation == "normal":
            return
        if not len(public):
            raise NotApplicable("component 'codebook': k-means needs public examples; set initialisation = 'normal'.")
        layers = {place: layer for place, layer in codebooks(model).items() if self._is_own(place)}
        chosen = public[torch.randperm(len(public), generator=generator)[:_EXAMPLES]]
        with torch.no_grad(), disable_dropout(), bypass_codebooks(model), _inputs(layers) as seen:
            model(chosen)
            for place, layer in layers.items():
                inputs = torch.cat([layer.normalise(x).flatten(0, -3) for x in seen[place]])
                for group in range(self.config.groups):
                    layer.codes[group] = _centres(inputs[:, group], layer.codes[group], generator)

    def refuses(self, federation: PublicFederation, model: nn.Module) -> str | None:
        """Refuse codes that do not fit the layer's width, and layers that the forward pass never reaches."""
        try:
            with torch.no_grad(), disable_dropout(), reading(model) as seen:
                model(federation.probe(2).inputs)
        except NotApplicable as reason:
            return str(reason)
        idle = [place for place, calls in seen.items() if self._is_own(place) and not calls]
        return f"the forward pass never reaches '{idle[0]}'" if idle else None

    def scores(self, model: nn.Module, truth: Truth, guess: Reconstruction) -> Mapping[str, float]:
        """Return recall and precision, per place, of the fired codes that an attacker inferred from a local step."""
        read = {place: guess.extras.get(f"codebook.{place}") for place in codebooks(model) if self._is_own(place)}
        mine = {place: codes for place, codes in read.items() if codes is not None}
        if not mine or truth.batches[1:]:
            return {}
        (batch,), (masks,) = truth.batches, truth.masks
        sites = dropout_sites(model, batch.inputs.shape[1:], len(batch), batch.inputs.dtype)
        with torch.no_grad(), inject_masks(sites, masks), reading(model) as seen:
            model(batch.inputs)
        scores: dict[str, float] = {}
        for place, read in mine.items():
            fired = torch.stack([find_fired_codes(codes, *read.shape) for codes in seen[place]]).any(0)
            right = float((fired & read).sum())
            scores[f"share of the codes fired at '{place}' that were read"] = right / float(fired.sum())
            scores[f"share of the codes read at '{place}' that fired"] = right / max(1.0, float(read.sum()))
        return scores

    def _find_modules(self, model: nn.Module) -> list[str]:
        """Return the modules that match each pattern, in registration order."""
        names = [name for name, _ in model.named_modules() if name]
        places: list[str] = []
        for pattern in self.config.at:
            matching = [name for name in names if fnmatchcase(name, pattern)]
            if not matching:
                raise NotApplicable(
                    f"component 'codebook': no layer is called '{pattern}'.{did_you_mean(pattern, names)}"
                )
            places += matching
        for inner, outer in itertools.permutations(places, 2):
            if inner.startswith(f"{outer}."):
                raise NotApplicable(f"component 'codebook': '{inner}' is a part of '{outer}'; name only one.")
        return places

    @property
    def _does(self) -> str:
        return "reads" if self.config.side == "input" else "returns"

    def _is_own(self, place: str) -> bool:
        return any(fnmatchcase(place, pattern) for pattern in self.config.at)

    def _layer(self, place: str, width: int, generator: torch.Generator) -> CodebookLayer:
        if width % self.config.groups:
            raise NotApplicable(
                f"component 'codebook': '{place}' {self._does} {width} entries, not a multiple of the "
                f"{self.config.groups} groups."
            )
        settings = self.config.model_dump(exclude={"at", "side", "width", "initialisation"})
        return CodebookLayer(place, width, **settings, generator=generator)

    def _width(self, model: nn.Module, place: str) -> int:
        measured = width_into if self.config.side == "input" else width_of
        actual, wanted = measured(model, place), self.config.width
        if actual is None and wanted is None:
            raise NotApplicable(
                f"component 'codebook': how wide is '{place}'? Set width to the entries it {self._does}."
            )
        if actual is not None and wanted is not None and wanted > actual:
            raise NotApplicable(
                f"component 'codebook': its codes have {wanted} entries, more than the {actual} of '{place}'."
            )
        return wanted or actual or 0


class _Quantised(nn.Sequential):
    """A module with a codebook after or before it."""

    def __init__(self, layer: nn.Module, codebook: CodebookLayer, side: Literal["output", "input"]) -> None:
        super().__init__()
        parts = {"layer": layer, "codebook": codebook}
        for name in parts if side == "output" else reversed(parts):
            self.add_module(name, parts[name])


def codebooks(model: nn.Module) -> dict[str, CodebookLayer]:
    """Return a model's codebooks, by the name of the module whose output or input they replace."""
    return {module.place: module for module in model.modules() if isinstance(module, CodebookLayer)}


@contextmanager
def reading(model: nn.Module) -> Iterator[Mapping[str, list[Tensor]]]:
    """Collect the fired codes by place: one tensor (B, ..., groups, k) per forward pass, in ascending order."""
    layers = codebooks(model)
    seen: dict[str, list[Tensor]] = {place: [] for place in layers}
    for place, layer in layers.items():
        layer.readers.append(seen[place])
    try:
        yield seen
    finally:
        for place, layer in layers.items():
            layer.readers = [reader for reader in layer.readers if reader is not seen[place]]


@contextmanager
def bypass_codebooks(model: nn.Module) -> Iterator[None]:
    """Pass activations through all codebooks unchanged, as in the plain model."""
    before = {layer: layer.enabled for layer in codebooks(model).values()}
    for layer in before:
        layer.enabled = False
    try:
        yield
    finally:
        for layer, was_enabled in before.items():
            layer.enabled = was_enabled


def force_codes(
    model: nn.Module, place: str, codes: Sequence[int], *, group: int | None = None, positions: slice = slice(None)
) -> ExitStack:
    """Return a context in which these codes replace the least similar active codes; k does not change.

    Args:
        model: has a codebook at `place`.
        place: name of the module whose output or input the codebook replaces.
        codes: at most k.
        group: group of the codebook; default all groups.
        positions: slice of the dimension after the batch, for activations (B, T, ..., d).

    Raises:
        FedsimError: no codebook at `place`, an unknown code or group, or more codes than k.
    """
    layer = _codebook_at(model, place)
    if len(set(codes)) > layer.active:
        raise FedsimError(f"{len(set(codes))} codes cannot be forced at '{place}', where {layer.active} are active.")
    forced = _rank(layer, _change(layer, codes, group, positions, torch.inf))
    if positions != slice(None):
        forced.enter_context(whole_texts())
    return forced


def disable_codes(model: nn.Module, place: str, codes: Sequence[int], *, group: int | None = None) -> ExitStack:
    """Return a context in which these codes never fire; the next most similar codes replace them.

    Raises:
        FedsimError: no codebook at `place`, an unknown code or group, or fewer than k codes remain.
    """
    layer = _codebook_at(model, place)
    if layer.codes.shape[1] - len(set(codes)) < layer.active:
        raise FedsimError(f"too few codes are left at '{place}', where {layer.active} are active.")
    return _rank(layer, _change(layer, codes, group, slice(None), -torch.inf))


def silence_codes(
    model: nn.Module, place: str, codes: Sequence[int], *, group: int | None = None
) -> AbstractContextManager[None]:
    """Return a context in which these codes contribute zero where they fire; no other code replaces them.

    A mean still divides by k.

    Raises:
        FedsimError: no codebook at `place`, or an unknown code or group.
    """
    layer = _codebook_at(model, place)
    return _silence_codes(layer, _chosen_codes(layer, codes, group))


def _codebook_at(model: nn.Module, place: str) -> CodebookLayer:
    layers = codebooks(model)
    if place not in layers:
        raise FedsimError(f"no codebook at '{place}'.{did_you_mean(place, layers)}")
    return layers[place]


def _change(layer: CodebookLayer, codes: Sequence[int], group: int | None, rows: slice, value: float) -> Ranking:
    added = torch.zeros(layer.codes.shape[:2]).masked_fill(_chosen_codes(layer, codes, group), value)

    def change(ranked: Tensor) -> Tensor:
        if rows == slice(None):
            return ranked + added
        ranked = ranked.clone()
        ranked[:, rows] += added
        return ranked

    return change


@contextmanager
def _silence_codes(layer: CodebookLayer, silent: Tensor) -> Iterator[None]:
    layer.silent.append(silent)
    try:
        yield
    finally:
        layer.silent = [position for position in layer.silent if position is not silent]


def _chosen_codes(layer: CodebookLayer, codes: Sequence[int], group: int | None) -> Tensor:
    """Return the mask of these codes, boolean, shape (groups, C)."""
    groups, count, _ = layer.codes.shape
    if not all(0 <= code < count for code in codes) or not 0 <= (group or 0) < groups:
        raise FedsimError(f"'{layer.place}' has {groups} groups of {count} codes, numbered from 0.")
    named = torch.zeros(groups, count, dtype=torch.bool)
    named[slice(None) if group is None else group, list(codes)] = True
    return named


def _rank(layer: CodebookLayer, change: Ranking) -> ExitStack:
    stack = ExitStack()
    layer.rankings.append(change)
    stack.callback(layer.rankings.remove, change)
    return stack


@contextmanager
def _inputs(layers: Mapping[str, CodebookLayer]) -> Iterator[Mapping[str, list[Tensor]]]:
    seen: dict[str, list[Tensor]] = {place: [] for place in layers}

    def note(place: str, _layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[place].append(inputs[0])

    handles = [layer.register_forward_pre_hook(partial(note, place)) for place, layer in layers.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _centres(points: Tensor, codes: Tensor, generator: torch.Generator) -> Tensor:
    """Return k-means centres (C, w) of points (N, w) by Lloyd's algorithm; codes beyond N do not change."""
    first = points[torch.randperm(len(points), generator=generator)[: len(codes)]]
    centres = first.clone()
    for _ in range(_LLOYD_STEPS):
        nearest_one = torch.cdist(points, centres).argmin(1)
        counts = torch.bincount(nearest_one, minlength=len(centres))[:, None]
        sums = torch.zeros_like(centres).index_add(0, nearest_one, points)
        centres = torch.where(counts > 0, sums / counts.clamp_min(1), centres)
    return torch.cat([centres, codes[len(centres) :]])
