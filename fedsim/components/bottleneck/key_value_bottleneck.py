"""key-value-bottleneck: looks up the nearest keys of a frozen encoder's output and trains only their values.

Idea: A step changes only the values that its batch read, so later data does not overwrite earlier data.
Equation: j*_c = argmin over j of ||P_c^T e - k_cj||^2, logits = (1 / C) sum over c of V[c, j*_c]
Assumes: a last linear layer, which is replaced by C codebooks of J pairs, and public examples, from whose moving
    averages the keys are fitted before they are frozen like P and the encoder.
Leaks: the support of the update lists the cells of a client's records, C pieces of their encoder output; a value's
    gradient is softmax minus target, which gives the label.
Fails: with momentum, Adam or weight decay, which also change values that the batch did not read.
Source: Traeuble et al. 2023, arXiv 2207.11240, sections 2 and 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.components.bottleneck._widths import width_of
from fedsim.components.core.key_value import (
    KeyLookup,
    KeyValueModel,
    LinearDecoder,
    MovingAverages,
    ValueTable,
    VotingDecoder,
    centre,
)
from fedsim.core.errors import NotApplicable, did_you_mean
from fedsim.core.hooks import IMAGES_AND_TEXT, Bottleneck, PublicFederation
from fedsim.core.registry import component
from fedsim.core.types import Config, Modality, Reconstruction, Truth

_NAME = "key-value-bottleneck"
_LLOYD_STEPS = 10
_EMBEDDED_AT_ONCE = 256


class KeyValueBottleneckConfig(Config):
    """Settings of the bottleneck."""

    at: str | None = Field(
        default=None,
        description="name of the encoder's last module; absent: all modules before the last linear layer",
    )
    codebooks: int = Field(default=32, ge=1, description="codebooks C; the paper's experiments use 256")
    pairs: int = Field(
        default=256, ge=1, description="key-value pairs J per codebook; the paper's experiments use 4096"
    )
    key_width: int = Field(default=8, ge=1, description="entries per key; the paper finds 8 to 14 best")
    active: int = Field(default=1, ge=1, description="nearest keys that are read per codebook (topk)")
    projection: Literal["gaussian", "chunk"] = Field(
        default="gaussian",
        description="projections of the encoder's output; gaussian: random columns of length 1; chunk: C slices, "
        "as wide as a key",
    )
    decoder: Literal["voting", "linear"] = Field(
        default="voting",
        description="voting: values are logits and are averaged; linear: a frozen random map of the values",
    )
    value_width: int = Field(
        default=16, ge=1, description="entries per value for linear; voting has an entry per class"
    )
    values: Literal["zeros", "normal"] = Field(default="zeros", description="first values: 0, or N(0, 1)")
    skip_unread: bool = Field(
        default=True,
        description="whether evaluation uses the nearest key with a nonzero value (read during training)",
    )
    keys: Literal["k-means", "normal"] = Field(
        default="k-means", description="first keys: centres of the first public batch, or N(0, 1)"
    )
    passes: int = Field(default=10, ge=0, description="passes over the public examples; then keys are frozen")
    batch_size: int = Field(default=256, ge=1, description="public examples per step of the keys")
    decay: float = Field(default=0.95, ge=0, lt=1, description="decay of the keys' moving averages per step")
    epsilon: float = Field(default=1e-5, gt=0, description="added to every average count, in reads per batch")
    threshold: float = Field(
        default=0.1, ge=0, description="a key that is read less often than this share of the mean moves onto a head"
    )
    reset_ema: bool = Field(
        default=True, description="whether a key that moves also resets its averages; false: as in the paper's code"
    )


@final
@component(
    _NAME,
    summary="looks up values by a frozen encoder, and trains only the values",
    tier="research",
    paper="2207.11240",
    fidelity="variant",
    deviates="smaller defaults; a moved key resets its averages; a value counts as read if it is nonzero",
    aliases=("dkvb",),
    paper_steps=(
        ("random projections into heads", "_cut"),
        ("keys from moving averages over unlabelled features", "KeyValueBottleneck.initialise"),
        ("only the values that were read learn", "KeyValueBottleneck.prepare"),
    ),
)
class KeyValueBottleneck(Bottleneck[KeyValueBottleneckConfig]):
    """Freezes a model up to a layer and replaces the rest by a table of keys and values."""

    modalities: ClassVar[frozenset[Modality]] = IMAGES_AND_TEXT

    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Return a `KeyValueModel` with `model` as its encoder.

        Raises:
            NotApplicable: no linear layer to replace, no module of that name, or incompatible sizes.
        """
        config = self.config
        if config.active > config.pairs:
            raise NotApplicable(
                f"component '{_NAME}': active is {config.active}, expected at most {config.pairs}, "
                "the pairs of a codebook."
            )
        heads = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        if not heads or "" in heads:
            raise NotApplicable(f"component '{_NAME}': the model has no linear layer (nn.Linear) after an encoder.")
        last, head = list(heads.items())[-1]
        width = head.in_features if config.at is None else self._width(model, config.at)
        _cut(model, last if config.at is None else config.at, keeps=config.at is not None)
        values = head.out_features if config.decoder == "voting" else config.value_width
        projections = self._projections(width, generator)
        key_width = projections.shape[-1]
        keys = torch.randn(config.codebooks, config.pairs, key_width, generator=generator)
        table = torch.zeros(config.codebooks, config.pairs, values)
        if config.values == "normal":
            table.normal_(generator=generator)
        decoder = VotingDecoder() if config.decoder == "voting" else self._linear(head.out_features, generator)
        return KeyValueModel(
            model, KeyLookup(projections, keys, config.active), ValueTable(table), decoder, skips_unread=self._skips
        )

    @torch.no_grad()
    def initialise(self, model: nn.Module, public: Tensor, generator: torch.Generator) -> None:
        """Fit the keys to the public examples by k-means and moving averages.

        Raises:
            NotApplicable: the settings need public examples, and none are available.
        """
        config = self.config
        if config.keys == "normal" and not config.passes:
            return
        if not len(public):
            raise NotApplicable(
                f"component '{_NAME}': keys need public examples; set keys = 'normal' and passes = 0 to do without."
            )
        bottleneck = bottleneck_of(model)
        lookup = bottleneck.lookup
        features = torch.cat([bottleneck.features(x) for x in public.split(_EMBEDDED_AT_ONCE)])
        orders = [torch.randperm(len(features), generator=generator) for _ in range(max(1, config.passes))]
        if config.keys == "k-means":
            first = lookup.heads(features[orders[0][: config.batch_size]])
            lookup.keys.copy_(centre(first, lookup.keys, _LLOYD_STEPS, generator))
        averages = self._averages(lookup.keys.clone(), min(config.batch_size, len(features)) * features.shape[1])
        for order in orders[: config.passes]:
            for chosen in order.split(config.batch_size):
                heads = lookup.heads(features[chosen])
                averages.follow(heads, self._least(heads.shape[1]), generator)
        lookup.keys.copy_(averages.keys)

    def refuses(self, federation: PublicFederation, model: nn.Module) -> str | None:
        """Refuse token labels, and encoder outputs that do not fit the keys or the classes."""
        if federation.label_shape:
            return "it gives a single answer per example, and in this task every token has a label"
        try:
            with torch.no_grad():
                outputs = model(federation.probe(2).inputs)
        except NotApplicable as reason:
            return str(reason)
        if outputs.shape != (2, federation.classes):
            return f"the model returns {tuple(outputs.shape)}, expected (examples, {federation.classes} classes)"
        return None

    def scores(self, model: nn.Module, truth: Truth, guess: Reconstruction) -> Mapping[str, float]:
        """Return the accuracy of the cells, keys and encoder outputs that an attacker inferred from a local step."""
        if truth.batches[1:]:
            return {}
        bottleneck, inputs = bottleneck_of(model), truth.batches[0].inputs
        scores: dict[str, float] = {}
        if f"{_NAME}.cells" in guess.extras:
            scores |= _cell_scores(bottleneck, inputs, guess.extras[f"{_NAME}.cells"])
        if f"{_NAME}.keys" in guess.extras:
            scores |= _key_scores(bottleneck, inputs, guess.extras[f"{_NAME}.keys"])
        if f"{_NAME}.features" in guess.extras:
            scores |= _feature_scores(bottleneck, inputs, guess.extras[f"{_NAME}.features"])
        return scores

    @property
    def _skips(self) -> bool:
        """Whether evaluation skips unread pairs; only values that start at 0 show which pairs are unread."""
        return self.config.skip_unread and self.config.values == "zeros"

    def _width(self, model: nn.Module, place: str) -> int:
        names = {name for name, _ in model.named_modules() if name}
        if place not in names:
            raise NotApplicable(f"component '{_NAME}': no layer is called '{place}'.{did_you_mean(place, names)}")
        width = width_of(model, place)
        if width is None:
            raise NotApplicable(
                f"component '{_NAME}': the width of '{place}' is unknown. Name a layer with weights, or a later layer."
            )
        return width

    def _projections(self, width: int, generator: torch.Generator) -> Tensor:
        """Return the projections P, shape (m, C, d_k)."""
        config = self.config
        if config.projection == "gaussian":
            directions = torch.randn(width, config.codebooks, config.key_width, generator=generator)
            return directions / directions.norm(dim=0)
        if width % config.codebooks:
            raise NotApplicable(
                f"component '{_NAME}': the encoder returns {width} features, not a multiple of the "
                f"{config.codebooks} codebooks, which projection = 'chunk' needs."
            )
        return torch.eye(width).unflatten(1, (config.codebooks, -1))

    def _linear(self, classes: int, generator: torch.Generator) -> LinearDecoder:
        joined = self.config.codebooks * self.config.active * self.config.value_width
        return LinearDecoder(torch.randn(classes, joined, generator=generator) / joined**0.5)

    def _least(self, heads: int) -> float:
        """Return the average count below which a key counts as unused, for `heads` heads per batch."""
        return self.config.threshold * heads / self.config.pairs

    def _averages(self, keys: Tensor, heads: int) -> MovingAverages:
        config = self.config
        counts, sums = torch.zeros(keys.shape[:2]), keys.clone()
        if config.reset_ema:
            counts = torch.full_like(counts, self._least(heads))
            sums = counts[..., None] * keys
        return MovingAverages(keys, counts, sums, config.decay, config.epsilon, config.reset_ema)


def bottleneck_of(model: nn.Module) -> KeyValueModel:
    """Return the key-value model that `model` is or contains.

    Raises:
        NotApplicable: the model contains no key-value bottleneck.
    """
    bottleneck = next((module for module in model.modules() if isinstance(module, KeyValueModel)), None)
    if bottleneck is None:
        raise NotApplicable("the model has no key-value bottleneck")
    return bottleneck


def cells_of(indices: Tensor, pairs: int) -> Tensor:
    """Return which pairs are among the keys (B, C, active, n), boolean, shape (C, J)."""
    by_codebook = indices.movedim(1, 0).flatten(1)
    return torch.zeros(len(by_codebook), pairs, dtype=torch.bool).scatter(1, by_codebook, True)


def _cut(model: nn.Module, place: str, *, keeps: bool) -> None:
    """Replace all modules registered after `place` by the identity, and `place` itself unless `keeps`."""
    names = [name for name, _ in model.named_modules()]
    tail = names[names.index(place) :]
    inner = [name for name in tail if name == place or name.startswith(f"{place}.")]
    for name in tail if not keeps else tail[len(inner) :]:
        parent = name.rpartition(".")[0]
        if not isinstance(model.get_submodule(parent), nn.Identity):
            model.set_submodule(name, nn.Identity())


@torch.no_grad()
def _cell_scores(bottleneck: KeyValueModel, inputs: Tensor, cells: Tensor) -> dict[str, float]:
    truly = cells_of(bottleneck.read(inputs), cells.shape[1])
    right = float((truly & cells).sum())
    return {
        "share of the cells read that were found": right / float(truly.sum()),
        "share of the cells found that were read": right / max(1.0, float(cells.sum())),
    }


def _key_scores(bottleneck: KeyValueModel, inputs: Tensor, guesses: Tensor) -> dict[str, float]:
    """Return the share of true keys that the matched guesses (G, C) name."""
    truly = bottleneck.read(inputs)[:, :, 0, 0]
    agreement = (truly[:, None] == guesses).float().mean(-1)
    return {"share of the keys given to the right record": float(agreement[_match(agreement)].mean())}


@torch.no_grad()
def _feature_scores(bottleneck: KeyValueModel, inputs: Tensor, guesses: Tensor) -> dict[str, float]:
    """Return cosine similarities of matched guesses (G, m) with the encoder's outputs at its only position."""
    truly, grey = bottleneck.features(inputs)[:, 0], bottleneck.features(torch.zeros_like(inputs[:1]))[0]

    def cosines(true: Tensor, guessed: Tensor) -> Tensor:
        return nn.functional.cosine_similarity(true[:, None], guessed[None], dim=-1)

    plain = cosines(truly, guesses)
    pairs = _match(plain)
    return {
        "cosine of the encoder's output": float(plain[pairs].mean()),
        "cosine of what it differs by from that of a grey image": float(
            cosines(truly - grey, guesses - grey)[pairs].mean()
        ),
    }


def _match(likeness: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows and columns of the assignment of records to guesses (B, G) with maximum similarity."""
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - takes long to import

    rows, columns = linear_sum_assignment(-likeness.numpy())
    return torch.as_tensor(rows), torch.as_tensor(columns)
