"""Base class of vision-language models that run layer by layer, with visual token reducers in between."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from fedsim.core.errors import FedsimError
from fedsim.core.nets.visual import LayerView, PromptCache, ReadPrompt, Stream, VisualReducer, VisualShape

Seen = Callable[[Tensor], None]  # receives the attention weights (B, heads, L, L) of a layer


class VisionEncoder(ABC):
    """A vision encoder, layer by layer, with the projector after it."""

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """Return the class token and the patches of images, (B, 1 + N, width)."""

    @abstractmethod
    def run(self, number: int, stream: Stream, seen: Seen | None = None) -> Tensor:
        """Return the hidden states after a layer; pass its attention weights to `seen` if available."""

    @abstractmethod
    def view(self, number: int) -> LayerView:
        """Return a view of a layer's attention."""

    @abstractmethod
    def project(self, features: Tensor) -> Tensor:
        """Return patches (B, n, width) projected to the language model's width."""


class LanguageModel(ABC):
    """A causal language model, layer by layer."""

    @abstractmethod
    def embed(self, tokens: Tensor) -> Tensor:
        """Return the states (B, T, width) of tokens (B, T)."""

    @abstractmethod
    def run(self, number: int, stream: Stream, held: PromptCache | None, seen: Seen | None = None) -> Tensor:
        """Return the hidden states after a layer; store keys and values in `held`, pass attention to `seen`.

        Not every model provides attention.
        """

    @abstractmethod
    def step(self, number: int, hidden: Tensor, held: PromptCache) -> Tensor:
        """Return the hidden state of one more token (B, 1, width) after a layer."""

    @abstractmethod
    def view(self, number: int) -> LayerView:
        """Return a view of a layer's attention."""

    @abstractmethod
    def score(self, hidden: Tensor) -> Tensor:
        """Return the logits (..., V) of the next token."""


class VisionLanguage(nn.Module):
    """Images, questions and answers to logits of the answer's tokens.

    Attributes:
        reducers: reducers of visual tokens, in the order of application.
        visual: shape of the model.
        listeners: called after every pass with the inputs of each language model layer.
        dialogue: default questions and answers for calls with images alone; image i gets entry i modulo their number.
        end: token that ends an answer.
    """

    end: int

    def __init__(self, visual: VisualShape) -> None:
        super().__init__()
        self.visual = visual
        self.reducers = nn.ModuleList()
        self.listeners: list[Callable[[tuple[Stream, ...]], None]] = []
        self.dialogue: tuple[Tensor, Tensor | None] | None = None

    @abstractmethod
    def vision(self) -> VisionEncoder:
        """Return the vision encoder."""

    @abstractmethod
    def language(self) -> LanguageModel:
        """Return the language model."""

    @abstractmethod
    def laid_out(self, question: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens before the image, and the tokens of the question after it."""

    def forward(self, images: Tensor, question: Tensor | None = None, answer: Tensor | None = None) -> Tensor:
        """Return the logits (B, 1 + A, V) of an answer's tokens, each given the previous tokens.

        Args:
            images: (B, C, H, W).
            question: tokens (B, T); those of `dialogue` if absent.
            answer: tokens (B, A) of the answer without its last token.

        Raises:
            FedsimError: neither a question nor a dialogue is given.
        """
        if question is None:
            question, answer = self._dialogue_of(len(images))
        stream = self.read(self.sequence(self.encode(images, question), question, answer))
        return self.language().score(stream.hidden_states[:, stream.prediction_slice])

    def encode(self, images: Tensor, question: Tensor) -> Stream:
        """Return the projected visual tokens as a stream without text. Reducers see the question."""
        notes: dict[str, Tensor] = {}
        for reducer in self._reducers():
            notes.update(reducer.look(images, question))
        vision, last = self.vision(), self.visual.feature_layer
        hidden = vision.embed(images)
        rows, patches = len(images), torch.arange(self.visual.patches, device=images.device)
        positions = torch.zeros(hidden.shape[:2], dtype=torch.long, device=images.device)
        stream = features = Stream(hidden, positions, patches.expand(rows, -1), front=1, notes=notes)
        needed, runs = self._encoder_layers()
        for number in range(needed):
            view = _Remembering(vision.view(number))
            for reducer in self._reducers():
                stream = reducer.before_encoder_layer(stream, view)
            if number == runs:
                break
            before = stream
            stream = before.with_hidden_states(vision.run(number, before, view.reading(before)))
            for reducer in self._reducers():
                stream = reducer.after_encoder_layer(before, stream, view)
            features = stream if number == last else features
        places = features.visual
        return replace(
            features,
            hidden_states=vision.project(features.hidden_states[:, places]),
            positions=features.patches.clamp_min(0),
            front=0,
            present=None if features.present is None else features.present[:, places],
            shares=None if features.shares is None else features.shares[:, places],
            notes=stream.notes,
        )

    def sequence(self, encoded: Stream, question: Tensor, answer: Tensor | None = None) -> Stream:
        """Return the language model's input: visual tokens at their positions, text after all original patches."""
        front, asking = self.laid_out(question)
        text = asking if answer is None else torch.cat((asking, answer), 1)
        rows, before, text_length = len(text), front.shape[1], text.shape[1]
        offsets, language = torch.arange(text_length, device=text.device), self.language()
        places = (
            torch.arange(before, device=text.device).expand(rows, -1),
            before + encoded.positions,
            (before + self.visual.patches + offsets).expand(rows, -1),
        )
        return Stream(
            hidden_states=torch.cat((language.embed(front), encoded.hidden_states, language.embed(text)), 1),
            positions=torch.cat(places, 1),
            patches=encoded.patches,
            front=before,
            prompt=asking.shape[1],
            tokens=text,
            present=_pad_values(encoded.present, before, text_length, True),
            shares=_pad_values(encoded.shares, before, text_length, 1.0),
            notes=encoded.notes,
        )

    def read(self, stream: Stream, held: PromptCache | None = None) -> Stream:
        """Run the language model's layers on a sequence, with all reducers."""
        language, seen = self.language(), list[Stream]()
        for reducer in self._reducers():
            stream = reducer.after_projection(stream)
        for number in range(self.visual.layers):
            view = _Remembering(language.view(number))
            for reducer in self._reducers():
                stream = reducer.before_layer(stream, view)
            before = stream
            seen.append(before)
            stream = before.with_hidden_states(language.run(number, before, held, view.reading(before)))
            for reducer in self._reducers():
                stream = reducer.after_layer(before, stream, view)
        for listener in self.listeners:
            listener(tuple(seen))
        for reducer in self._reducers():
            reducer.report(seen[-1].counts)
        return stream

    def begin(self, encoded: Stream, question: Tensor, *, is_contiguous: bool = False) -> ReadPrompt:
        """Process visual tokens and a question (prefill), and return the cache and the first logits.

        Args:
            encoded: all or some visual tokens from `encode`.
            question: tokens (B, T).
            is_contiguous: whether positions are renumbered as if dropped visual tokens had not existed.
        """
        sequence = self.sequence(encoded, question)
        held = PromptCache(self.visual.layers, len(question))
        stream = self.read(sequence.reindex_positions() if is_contiguous else sequence, held)
        for reducer in self._reducers():
            reducer.after_prompt(held)
        return ReadPrompt(held, stream.notes, self.language().score(stream.hidden_states[:, stream.last]))

    def follow(self, read: ReadPrompt, tokens: Tensor) -> Tensor:
        """Process one more token (B,) of each answer, extend `read`, and return the logits (B, V) of the next token."""
        language = self.language()
        hidden = language.embed(tokens[:, None])
        for number in range(self.visual.layers):
            hidden = language.step(number, hidden, read.prompt_cache)
            for reducer in self._reducers():
                hidden = reducer.after_step(hidden, number, read.notes)
        read.scores = language.score(hidden[:, 0])
        return read.scores

    @torch.no_grad()
    def answers(self, images: Tensor, question: Tensor, longest: int = 8) -> list[tuple[int, ...]]:
        """Return greedy answers without their end token, of at most `longest` tokens."""
        read = self.begin(self.encode(images, question), question)
        written = [read.scores.argmax(-1)]
        while len(written) < longest and not bool(torch.stack(written).eq(self.end).any(0).all()):
            written.append(self.follow(read, written[-1]).argmax(-1))
        rows = torch.stack(written, 1).tolist()
        return [tuple(row[: row.index(self.end)] if self.end in row else row) for row in rows]

    def _dialogue_of(self, count: int) -> tuple[Tensor, Tensor | None]:
        if self.dialogue is None:
            raise FedsimError(
                "the model needs a question for each image, and got only an image. For an "
                "attack, add 'extra-inputs' and 'labels' to threat.knows."
            )
        question, answer = self.dialogue
        chosen = torch.arange(count, device=question.device) % len(question)
        return question[chosen], None if answer is None else answer[chosen]

    def _encoder_layers(self) -> tuple[int, int]:
        """Return the numbers of encoder layers that reducers inspect and that run; the last output may be unused."""
        layers, projected = self.visual.encoder_layers, self.visual.feature_layer + 1
        if any(reducer.reads_all_of_encoder for reducer in self._reducers()):
            return layers, layers
        if any(reducer.asks_all_of_encoder for reducer in self._reducers()):
            return layers, max(layers - 1, projected)
        return projected, projected

    def _reducers(self) -> list[VisualReducer]:
        return [reducer for reducer in self.reducers if isinstance(reducer, VisualReducer)]


class _Remembering:
    """A layer view that caches the attention of the last pass, to avoid recomputation."""

    def __init__(self, view: LayerView) -> None:
        self.number, self._view = view.number, view
        self._read: Stream | None = None
        self._weights: Tensor | None = None

    def reading(self, stream: Stream) -> Seen:
        """Return the callback that records the layer's attention on a stream."""
        self._read = stream
        return self._see

    def queries_keys(self, stream: Stream) -> tuple[Tensor, Tensor]:
        return self._view.queries_keys(stream)

    def attention(self, stream: Stream, rows: slice | None = None) -> Tensor:
        if self._weights is None or stream is not self._read:
            return self._view.attention(stream, rows)
        return self._weights if rows is None else self._weights[:, :, rows]

    def _see(self, weights: Tensor) -> None:
        self._weights = weights


def _pad_values(values: Tensor | None, front: int, text_length: int, value: float) -> Tensor | None:
    return None if values is None else nn.functional.pad(values, (front, text_length), value=value)
