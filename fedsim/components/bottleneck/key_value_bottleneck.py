"""Discrete key-value bottleneck: nearest keys of a frozen encoder's output are read, and only their values trained.

    j*_c = argmin over j of ||P_c^T e - k_cj||^2,   logits = (1 / C) sum over c of V[c, j*_c]

Paper: Traeuble et al. 2023, arXiv 2207.11240, sections 2 and 3. The model's last linear layer gives way to C codebooks
of J pairs. Keys follow moving averages of public, unlabelled examples and are then frozen like P and the encoder, so a
step changes what the batch read and nothing else; with momentum, Adam or weight decay that is lost. One reading of the
paper's program fails: a key that nobody reads is moved onto a head h, but not its averages, so that the next batch
throws it back. Averages that go along must satisfy S / N = h, hence S = N h with N the threshold; S = h would throw the
key to h / N. A test shows all three. What it may leak: the support of the update lists the cells that a client's
records fall into, C pieces of their encoder output, and a value's gradient is softmax minus target: the label.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.components.bottleneck._key_value import (
    KeyLookup,
    KeyValueModel,
    LinearDecoder,
    MovingAverages,
    ValueTable,
    VotingDecoder,
    centred,
)
from fedsim.components.bottleneck._widths import width_of
from fedsim.core.errors import NotApplicable, nearest
from fedsim.core.hooks import IMAGES_AND_TEXT, Bottleneck, Rules
from fedsim.core.registry import component
from fedsim.core.types import Config, Modality, Reconstruction, Truth

_NAME = "key-value-bottleneck"
_LLOYD_STEPS = 10
_EMBEDDED_AT_ONCE = 256


class KeyValueBottleneckConfig(Config):
    """Settings of the bottleneck."""

    at: str | None = Field(
        default=None,
        description="name of the module that ends the encoder; absent: all in front of the last linear layer",
    )
    codebooks: int = Field(default=32, ge=1, description="C; the paper's experiments have 256")
    pairs: int = Field(default=256, ge=1, description="key-value pairs J of a codebook; the paper's experiments: 4096")
    key_width: int = Field(default=8, ge=1, description="entries of a key; the paper finds 8 to 14 best")
    active: int = Field(default=1, ge=1, description="nearest keys that are read in every codebook (topk)")
    projection: Literal["gaussian", "chunk"] = Field(
        default="gaussian",
        description="of the encoder's output: random, with columns of length 1; chunk: C slices, whose width is that "
        "of a key",
    )
    decoder: Literal["voting", "linear"] = Field(
        default="voting", description="values are logits and are averaged; linear: a random map of them that is frozen"
    )
    value_width: int = Field(default=16, ge=1, description="linear: entries of a value; voting has one a class")
    values: Literal["zeros", "normal"] = Field(default="zeros", description="first values: 0, or N(0, 1)")
    skip_unread: bool = Field(
        default=True,
        description="evaluation looks for the nearest key whose value is not zero: the nearest that training ever read",
    )
    keys: Literal["k-means", "normal"] = Field(
        default="k-means", description="keys begin as centres of the first public batch, or as N(0, 1)"
    )
    passes: int = Field(default=10, ge=0, description="over the public examples, after which keys are frozen")
    batch_size: int = Field(default=256, ge=1, description="public examples of a step of the keys")
    decay: float = Field(default=0.95, ge=0, lt=1, description="of the keys' moving averages in every step")
    epsilon: float = Field(default=1e-5, gt=0, description="added to every average count, in reads of a batch")
    threshold: float = Field(
        default=0.1, ge=0, description="a key that is read less than this share of the mean is moved onto a head"
    )
    reset_ema: bool = Field(
        default=True, description="a key that is placed anew takes its averages along; false: as in the paper's program"
    )


@final
@component(_NAME, summary="a frozen encoder looks up votes, which are trained", paper="2207.11240", aliases=("dkvb",))
class KeyValueBottleneck(Bottleneck[KeyValueBottleneckConfig]):
    """Freezes a model up to a layer and puts a table of keys and values in place of the rest."""

    modalities: ClassVar[frozenset[Modality]] = IMAGES_AND_TEXT

    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Return a model around `model`, which becomes its encoder.

        Raises:
            NotApplicable: no linear layer to replace, no module of that name, or sizes that do not fit each other.
        """
        config = self.config
        if config.active > config.pairs:
            raise NotApplicable(
                f"component '{_NAME}': {config.active} active keys of {config.pairs} pairs; expected at most all."
            )
        heads = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        if not heads or "" in heads:
            raise NotApplicable(f"component '{_NAME}': the model has no linear layer (nn.Linear) behind an encoder.")
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
        """Let the keys follow the public examples.

        Raises:
            NotApplicable: there are no public examples, and the settings call for them.
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
            lookup.keys.copy_(centred(first, lookup.keys, _LLOYD_STEPS, generator))
        averages = self._averages(lookup.keys.clone(), min(config.batch_size, len(features)) * features.shape[1])
        for order in orders[: config.passes]:
            for chosen in order.split(config.batch_size):
                heads = lookup.heads(features[chosen])
                averages.follow(heads, self._least(heads.shape[1]), generator)
        lookup.keys.copy_(averages.keys)

    def refuses(self, rules: Rules, model: nn.Module) -> str | None:
        """Say whether labels are those of tokens, or the encoder's output does not fit the keys, or the classes."""
        if rules.label_shape:
            return "it gives one answer an example, and here every token has a label"
        try:
            with torch.no_grad():
                outputs = model(rules.probe(2).inputs)
        except NotApplicable as reason:
            return str(reason)
        if outputs.shape != (2, rules.classes):
            return f"the model returns {tuple(outputs.shape)}, expected (examples, {rules.classes} classes)"
        return None

    def scores(self, model: nn.Module, truth: Truth, guess: Reconstruction) -> Mapping[str, float]:
        """Compare the cells and the encoder outputs that an attacker read in one local step with the true ones."""
        if truth.batches[1:]:
            return {}
        bottleneck, inputs = bottleneck_of(model), truth.batches[0].inputs
        found: dict[str, float] = {}
        if f"{_NAME}.cells" in guess.found:
            found |= _cell_scores(bottleneck, inputs, guess.found[f"{_NAME}.cells"])
        if f"{_NAME}.keys" in guess.found:
            found |= _key_scores(bottleneck, inputs, guess.found[f"{_NAME}.keys"])
        if f"{_NAME}.features" in guess.found:
            found |= _feature_scores(bottleneck, inputs, guess.found[f"{_NAME}.features"])
        return found

    @property
    def _skips(self) -> bool:
        """Whether unread pairs are passed over; where values do not begin at 0 nothing tells which they are."""
        return self.config.skip_unread and self.config.values == "zeros"

    def _width(self, model: nn.Module, place: str) -> int:
        names = {name for name, _ in model.named_modules() if name}
        if place not in names:
            raise NotApplicable(f"component '{_NAME}': no layer is called '{place}'.{nearest(place, names)}")
        width = width_of(model, place)
        if width is None:
            raise NotApplicable(
                f"component '{_NAME}': how wide is '{place}'? Name a layer with weights, or one behind."
            )
        return width

    def _projections(self, width: int, generator: torch.Generator) -> Tensor:
        """Return P, shape (m, C, d_k)."""
        config = self.config
        if config.projection == "gaussian":
            drawn = torch.randn(width, config.codebooks, config.key_width, generator=generator)
            return drawn / drawn.norm(dim=0)
        if width % config.codebooks:
            raise NotApplicable(
                f"component '{_NAME}': the encoder returns {width} features, which {config.codebooks} codebooks do not "
                "divide; projection = 'chunk' needs that."
            )
        return torch.eye(width).unflatten(1, (config.codebooks, -1))

    def _linear(self, classes: int, generator: torch.Generator) -> LinearDecoder:
        joined = self.config.codebooks * self.config.active * self.config.value_width
        return LinearDecoder(torch.randn(classes, joined, generator=generator) / joined**0.5)

    def _least(self, heads: int) -> float:
        """Return the average count below which a key is dead, for so many heads a batch."""
        return self.config.threshold * heads / self.config.pairs

    def _averages(self, keys: Tensor, heads: int) -> MovingAverages:
        config = self.config
        counts, sums = torch.zeros(keys.shape[:2]), keys.clone()
        if config.reset_ema:
            counts = torch.full_like(counts, self._least(heads))
            sums = counts[..., None] * keys
        return MovingAverages(keys, counts, sums, config.decay, config.epsilon, config.reset_ema)


def bottleneck_of(model: nn.Module) -> KeyValueModel:
    """Return the key-value model that `model` is or holds.

    Raises:
        NotApplicable: there is none.
    """
    found = next((module for module in model.modules() if isinstance(module, KeyValueModel)), None)
    if found is None:
        raise NotApplicable("the model has no key-value bottleneck")
    return found


def cells_of(indices: Tensor, pairs: int) -> Tensor:
    """Return which pairs are among keys (B, C, active, n), boolean, shape (C, J)."""
    by_codebook = indices.movedim(1, 0).flatten(1)
    return torch.zeros(len(by_codebook), pairs, dtype=torch.bool).scatter(1, by_codebook, True)


def _cut(model: nn.Module, place: str, *, keeps: bool) -> None:
    """Replace all modules registered behind `place` by the identity, and `place` too unless it is kept."""
    names = [name for name, _ in model.named_modules()]
    behind = names[names.index(place) :]
    inside = [name for name in behind if name == place or name.startswith(f"{place}.")]
    for name in behind if not keeps else behind[len(inside) :]:
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
    """Compare the one key that each guessed record reads in every codebook (G, C) with the true ones."""
    truly = bottleneck.read(inputs)[:, :, 0, 0]
    agreement = (truly[:, None] == guesses).float().mean(-1)
    return {"share of the keys given to the right record": float(agreement[_matched(agreement)].mean())}


@torch.no_grad()
def _feature_scores(bottleneck: KeyValueModel, inputs: Tensor, guesses: Tensor) -> dict[str, float]:
    """Compare guesses (G, m) with the outputs of single positions."""
    truly, grey = bottleneck.features(inputs)[:, 0], bottleneck.features(torch.zeros_like(inputs[:1]))[0]

    def cosines(true: Tensor, guessed: Tensor) -> Tensor:
        return nn.functional.cosine_similarity(true[:, None], guessed[None], dim=-1)

    plain = cosines(truly, guesses)
    pairs = _matched(plain)
    return {
        "cosine of the encoder's output": float(plain[pairs].mean()),
        "cosine of what it differs by from that of a grey image": float(
            cosines(truly - grey, guesses - grey)[pairs].mean()
        ),
    }


def _matched(likeness: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows and columns of the pairs of records and guesses whose likeness (B, G) is highest in all."""
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - takes long to import

    rows, columns = linear_sum_assignment(-likeness.numpy())
    return torch.from_numpy(rows), torch.from_numpy(columns)
