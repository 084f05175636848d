"""devil: describes a layer, or a position of an image, in words: features become a prompt of a frozen language model.

Idea: a small network maps a frozen vision model's features to a prompt, from which a frozen language model generates
    text.
Equation: min over T of -ln p(caption | T(pooled features)); in training, positions and layers are masked at random, so
    T accepts any subset. A map: -ln p(phrase | the vector of one position), for each position.
Assumes: captions, and features of the same layers. As a probe: a class is a text of one token with a random embedding.
Leaks: features that a client sends, as in split learning, are translated to sentences about its images.
Fails: with words that occur in no caption; layers with little semantic content; an attacker without features of the
    client's network.
Source: Dani et al. 2023, arXiv 2309.01617; sizes, scaled channels and rates are chosen here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fedsim.components.probe._translator import Translator, draw_kept, pool
from fedsim.core.errors import FedsimError, NotApplicable
from fedsim.core.hooks import Probe
from fedsim.core.nets.kv_cache import KVCache, LayerStack, stack_of
from fedsim.core.nets.losses import IGNORED
from fedsim.core.nets.masks import disable_dropout
from fedsim.core.registry import component
from fedsim.core.types import Config, Tensors

_AT_ONCE = 64
_NAME_WIDTH = 32


class DevilConfig(Config):
    """Settings of devil."""

    width: int = Field(default=64, ge=8, description="of the translator's transformer")
    blocks: int = Field(default=2, ge=1, description="of the translator's transformer")
    heads: int = Field(default=4, ge=1, description="of the translator's transformer; they divide the width")
    prompts: int = Field(default=4, ge=1, description="m, vectors of the prompt")
    steps: int = Field(default=100, ge=1, description="of training")
    batch: int = Field(default=32, ge=1, description="examples of a step")
    rate: float = Field(default=1e-3, gt=0, description="highest learning rate; a tenth of the steps warms up")
    hidden_places: float = Field(default=0.5, ge=0, lt=1, description="chance that a place is left out of the mean")
    hidden_layers: float = Field(default=0.5, ge=0, lt=1, description="chance that a layer is hidden")


class Language(NamedTuple):
    """A frozen causal language model, and its begin-of-text token."""

    model: nn.Module
    begin: int

    @property
    def stack(self) -> LayerStack:
        """Layers of the language model.

        Raises:
            NotApplicable: the layers are unknown.
        """
        layers = stack_of(self.model)
        if layers is None:
            raise NotApplicable("fedsim cannot find the layers of this language model. Choose a Llama-style model.")
        return layers

    @property
    def width(self) -> int:
        """Width of its embedding, which equals the width of a prompt's vectors."""
        return self.stack.embed(torch.tensor([[self.begin]])).shape[-1]


class ShownLayers(NamedTuple):
    """Inputs of the translator: a vector of each layer (B, C_l), and which layers are visible, booleans (B, layers)."""

    vectors: list[Tensor]
    is_shown: Tensor


@final
@component(
    "devil",
    summary="probe: features as a prompt of a frozen language model",
    tier="research",
    paper="2309.01617",
    fidelity="variant",
    deviates="as a probe a class is one random embedding; no neuron masks or class-token features; sizes, scaled "
    "channels and rates are chosen here",
    paper_steps=(
        ("pooled features of any layers to a prompt", "fedsim.components.probe._translator.Translator"),
        ("training with places and layers left out", "Devil.train"),
        ("text of a single place", "see_places"),
        ("open-vocabulary saliency map", "map_phrase"),
        ("text about an image from its features", "fedsim.questions.phrases.PhrasesQuestion"),
    ),
)
class Devil(Probe[DevilConfig]):
    """Predicts the class whose token a frozen head scores highest after the prompt."""

    def fit(self, hidden: Tensor, labels: Tensor, generator: torch.Generator) -> Tensors:
        """Return the translator's tensors by name, and `names` (K + 1, width), the head.

        Raises:
            NotApplicable: fewer than two classes, non-finite states, or unequal numbers of states and labels.
        """
        if hidden.ndim != 2 or len(hidden) != len(labels):  # noqa: PLR2004 - (N, width)
            raise NotApplicable(f"states have shape {tuple(hidden.shape)}, expected ({len(labels)}, width).")
        if not hidden.isfinite().all():
            raise NotApplicable("some states are not finite.")
        if not len(labels) or not int(labels.max()):
            raise NotApplicable("a probe needs examples of at least two classes, found a single class.")
        names = torch.randn(int(labels.max()) + 2, _NAME_WIDTH, generator=generator)
        translator = self.make_translator([hidden.shape[1]], _NAME_WIDTH, generator)
        language = Language(_Names(names), len(names) - 1)
        self.train(translator, language, [hidden.float()[..., None, None]], labels[:, None].tolist(), generator)
        return {**translator.state_dict(), "names": names}

    def predict(self, learned: Tensors, hidden: Tensor) -> Tensor:
        """Return the probability of each class, shape (N, K)."""
        weights = {name: weight for name, weight in learned.items() if name != "names"}
        translator = self.make_translator([hidden.shape[1]], _NAME_WIDTH, torch.Generator())
        translator.load_state_dict(weights)
        seen = ShownLayers([hidden.float()], torch.ones(len(hidden), 1, dtype=torch.bool))
        with torch.no_grad():
            prompt = translator.eval()(*seen)
        return (prompt[:, -1] @ learned["names"][:-1].T).softmax(-1).to(hidden.dtype)

    def make_translator(self, channels: Sequence[int], width_out: int, generator: torch.Generator) -> Translator:
        """Return a translator with initial weights.

        Args:
            channels: number of channels of each layer.
            width_out: width of the language model's embedding.
            generator: random source of the weights.
        """
        config = self.config
        return Translator(channels, width_out, (config.width, config.blocks, config.heads), config.prompts, generator)

    def train(
        self,
        translator: Translator,
        language: Language,
        features: Sequence[Tensor],
        captions: Sequence[Sequence[int]],
        generator: torch.Generator,
    ) -> list[float]:
        """Train a translator in place, and return the loss of each step in nats per token.

        Args:
            translator: from `make_translator`.
            language: frozen language model.
            features: features of each layer, shape (N, C_l, H_l, W_l).
            captions: tokens of each image's caption, including the end-of-text token.
            generator: random source of the batches and masks.

        Raises:
            NotApplicable: the language model's layers are unknown, or the numbers of captions and images differ.
        """
        if {len(feature) for feature in features} != {len(captions)} or not captions:
            counts = [len(feature) for feature in features]
            raise NotApplicable(
                f"found {len(captions)} captions and features of {counts} images: expected a caption per image."
            )
        translator.fit_scales(features)
        search = torch.optim.AdamW(translator.parameters(), lr=self.config.rate, weight_decay=0.0, fused=True)
        warm = max(1, self.config.steps // 10)
        course = torch.optim.lr_scheduler.LambdaLR(
            search, lambda step: min((step + 1) / warm, (self.config.steps - step) / max(1, self.config.steps - warm))
        )
        costs = []
        with _frozen(language.model), torch.enable_grad():
            for _ in range(self.config.steps):
                rows = torch.randint(len(captions), (self.config.batch,), generator=generator)
                seen = self._draw([feature[rows].float() for feature in features], generator)
                loss = _costs(
                    language, translator(*seen), [captions[number] for number in rows.tolist()], mean_of_all=True
                )
                search.zero_grad()
                loss.backward()
                search.step()
                course.step()
                costs.append(loss.item())
        return costs

    def _draw(self, features: list[Tensor], generator: torch.Generator) -> ShownLayers:
        places = [
            draw_kept(len(feature), feature[0, 0].numel(), self.config.hidden_places, generator) for feature in features
        ]
        is_shown = draw_kept(len(features[0]), len(features), self.config.hidden_layers, generator)
        return ShownLayers([pool(feature, kept) for feature, kept in zip(features, places, strict=True)], is_shown)


def see_whole(features: Sequence[Tensor], layers: Sequence[int]) -> ShownLayers:
    """Return the mean over all positions of features (B, C_l, H_l, W_l), with these layers visible.

    Raises:
        FedsimError: unknown layer.
    """
    return ShownLayers([pool(feature.float()) for feature in features], _mark_shown(features, len(features[0]), layers))


def see_places(features: Sequence[Tensor], layers: Sequence[int]) -> tuple[ShownLayers, tuple[int, int]]:
    """Return the vectors of all positions, image by image, and the height and width of their grid.

    The grid is that of the finest visible layer; the others are interpolated to it.

    Raises:
        FedsimError: unknown layer.
    """
    is_shown = _mark_shown(features, 1, layers)
    height, width = max(tuple(features[layer].shape[-2:]) for layer in layers)
    vectors = []
    for feature in features:
        fitted = feature.float()
        if feature.shape[-2:] != (height, width):
            fitted = F.interpolate(fitted, (height, width), mode="bilinear", align_corners=False)
        vectors.append(fitted.permute(0, 2, 3, 1).flatten(0, 2))
    return ShownLayers(vectors, is_shown.expand(len(vectors[0]), -1)), (height, width)


def _mark_shown(features: Sequence[Tensor], rows: int, layers: Sequence[int]) -> Tensor:
    missing = [layer for layer in layers if not 0 <= layer < len(features)]
    if missing or not layers:
        strange = missing[0] if missing else "none"
        raise FedsimError(f"layer {strange} does not exist: features have layers 0 to {len(features) - 1}.")
    is_shown = torch.zeros(rows, len(features), dtype=torch.bool)
    is_shown[:, list(layers)] = True
    return is_shown


@torch.no_grad()
def cost_of(translator: Translator, language: Language, seen: ShownLayers, phrase: Sequence[int]) -> Tensor:
    """Return the mean negative log-likelihood of a phrase's tokens per row, in nats, shape (B,).

    Raises:
        NotApplicable: the language model's layers are unknown.
    """
    with _frozen(language.model):
        prompts = _prompts(translator, seen)
        return torch.cat([_costs(language, prompt, [phrase] * len(prompt)) for prompt in prompts])


@torch.no_grad()
def next_scores(translator: Translator, language: Language, seen: ShownLayers) -> Tensor:
    """Return the scores (B, V) of the first token of each row's text.

    Raises:
        NotApplicable: the language model's layers are unknown.
    """
    nothing = torch.zeros(_AT_ONCE, 0, dtype=torch.long)
    with _frozen(language.model):
        prompts = _prompts(translator, seen)
        return torch.cat([_scores(language, prompt, nothing[: len(prompt)])[:, 0] for prompt in prompts])


def map_phrase(
    translator: Translator, language: Language, features: Sequence[Tensor], layers: Sequence[int], phrase: Sequence[int]
) -> Tensor:
    """Return the mean log-likelihood of a phrase at each position, shape (B, H, W) of the finest layer.

    Args:
        translator: trained translator.
        language: language model used in its training.
        features: features of each layer, shape (B, C_l, H_l, W_l).
        layers: visible layers.
        phrase: token ids.

    Raises:
        NotApplicable: the language model's layers are unknown.
        FedsimError: unknown layer.
    """
    seen, (height, width) = see_places(features, layers)
    return -cost_of(translator, language, seen, phrase).view(-1, height, width)


@torch.no_grad()
def write(translator: Translator, language: Language, seen: ShownLayers, end: int, limit: int = 16) -> list[list[int]]:
    """Generate the text of each row greedily, up to the end-of-text token or `limit` tokens.

    Raises:
        NotApplicable: the language model's layers are unknown.
    """
    texts = []
    with _frozen(language.model):
        for prompt in _prompts(translator, seen):
            tokens = torch.zeros(len(prompt), 0, dtype=torch.long)
            for _ in range(limit):
                tokens = torch.cat((tokens, _scores(language, prompt, tokens)[:, -1:].argmax(-1)), 1)
                if (tokens == end).any(1).all():
                    break
            texts += [row[: row.index(end)] if end in row else row for row in tokens.tolist()]
    return texts


def _prompts(translator: Translator, seen: ShownLayers) -> Iterator[Tensor]:
    """Yield prompts in batches of rows."""
    for start in range(0, len(seen.is_shown), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        yield translator([vector[part] for vector in seen.vectors], seen.is_shown[part])


def _costs(language: Language, prompt: Tensor, texts: Sequence[Sequence[int]], *, mean_of_all: bool = False) -> Tensor:
    """Return the mean loss of the tokens of each text, or of all texts together."""
    wanted = nn.utils.rnn.pad_sequence([torch.tensor(text) for text in texts], batch_first=True, padding_value=IGNORED)
    scores = _scores(language, prompt, wanted[:, :-1].clamp_min(0))
    if mean_of_all:
        return F.cross_entropy(scores.flatten(0, 1), wanted.flatten(), ignore_index=IGNORED)
    token_costs = F.cross_entropy(scores.transpose(1, 2), wanted, ignore_index=IGNORED, reduction="none")
    return token_costs.sum(1) / (wanted != IGNORED).sum(1)


def _scores(language: Language, prompt: Tensor, tokens: Tensor) -> Tensor:
    """Return the next-token scores (B, T + 1, V) after [begin][prompt], and after each of tokens (B, T)."""
    stack = language.stack
    begin = stack.embed(torch.full((len(prompt), 1), language.begin))
    hidden = torch.cat((begin, prompt.to(begin.dtype), stack.embed(tokens)), 1)
    length = hidden.shape[1]
    place = stack.place(hidden, torch.arange(length).expand(len(hidden), -1))
    mask = torch.full((length, length), -torch.inf, dtype=hidden.dtype).triu(1)[None, None]
    store = KVCache(stack.depth, len(hidden))
    for number in range(stack.depth):
        hidden = stack.layer(number, hidden, place, mask, store)
    return stack.score(hidden[:, prompt.shape[1] :])


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Freeze a model within the context: evaluation mode, no dropout, no weight gradients; then restore it."""
    training = [module for module in model.modules() if module.training]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    for part in trained:
        part.requires_grad = False
    try:
        with disable_dropout():
            yield
    finally:
        for part in trained:
            part.requires_grad = True
        for part in training:
            part.training = True


class _Names(nn.Module):
    """A language model without layers: its head scores the prompt's last vector against each token's vector."""

    depth = 0

    def __init__(self, names: Tensor) -> None:
        super().__init__()
        self.register_buffer("names", names)

    def stack(self) -> LayerStack:
        """Return this module."""
        return self

    def embed(self, tokens: Tensor) -> Tensor:
        """Return the tokens' vectors."""
        return self.get_buffer("names")[tokens]

    def place(self, hidden: Tensor, positions: Tensor) -> Any:
        """Return None: there are no layers."""

    def layer(self, number: int, hidden: Tensor, place: Any, mask: Tensor | None, store: KVCache) -> Tensor:
        """Raise, because there are no layers."""
        raise IndexError(number)

    def score(self, hidden: Tensor) -> Tensor:
        """Return the inner products with each token's vector."""
        return hidden @ self.get_buffer("names").T
