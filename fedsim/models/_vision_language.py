"""The loop of a model that reads images and text: every layer one by one, with reducers between them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from fedsim.core.errors import FedsimError
from fedsim.core.visual import Held, LayerView, ReadPrompt, Stream, VisualReducer, VisualShape

Seen = Callable[[Tensor], None]  # is shown the attention of a layer that runs, (B, heads, L, L)


class VisionEncoder(ABC):
    """A vision encoder, layer by layer, with the projector behind it."""

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """Return the class token and the patches of images, (B, 1 + N, width)."""

    @abstractmethod
    def run(self, number: int, stream: Stream, seen: Seen | None = None) -> Tensor:
        """Return what a layer makes of a stream. It shows its attention to `seen` if it has it."""

    @abstractmethod
    def view(self, number: int) -> LayerView:
        """Return a layer, to be asked about its attention."""

    @abstractmethod
    def project(self, features: Tensor) -> Tensor:
        """Return patches (B, n, width) as the language model reads them."""


class LanguageModel(ABC):
    """A causal language model, layer by layer."""

    @abstractmethod
    def embed(self, tokens: Tensor) -> Tensor:
        """Return the states (B, T, width) of tokens (B, T)."""

    @abstractmethod
    def run(self, number: int, stream: Stream, held: Held | None, seen: Seen | None = None) -> Tensor:
        """Return what a layer makes of a stream. Keys and values go to `held`, attention to `seen` where it has any."""

    @abstractmethod
    def step(self, number: int, hidden: Tensor, held: Held) -> Tensor:
        """Return what a layer makes of one more token (B, 1, width)."""

    @abstractmethod
    def view(self, number: int) -> LayerView:
        """Return a layer, to be asked about its attention."""

    @abstractmethod
    def score(self, hidden: Tensor) -> Tensor:
        """Return the scores (..., V) of the next token."""


class VisionLanguage(nn.Module):
    """Images, questions and answers to scores of the answer's tokens.

    Attributes:
        reducers: act on the visual tokens, in their order.
        visual: what it says of itself.
        listeners: are called with what each layer of the language model read, after every pass.
        dialogue: questions and answers for those who show images alone; image i gets the i-th, from the first on again.
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
        """Return the tokens before the image, and those behind it that ask."""

    def forward(self, images: Tensor, question: Tensor | None = None, answer: Tensor | None = None) -> Tensor:
        """Return the scores (B, 1 + A, V) of an answer's tokens, each given those before it.

        Args:
            images: (B, C, H, W).
            question: tokens (B, T); absent: those that the model was told.
            answer: tokens (B, A) of it but the last one.

        Raises:
            FedsimError: there is no question.
        """
        if question is None:
            question, answer = self._dialogue_of(len(images))
        stream = self.read(self.sequence(self.encode(images, question), question, answer))
        return self.language().score(stream.hidden[:, stream.predicting])

    def encode(self, images: Tensor, question: Tensor) -> Stream:
        """Return the projected visual tokens alone. Reducers see the question, and no text stands in the stream."""
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
            stream = before.with_(vision.run(number, before, view.reading(before)))
            for reducer in self._reducers():
                stream = reducer.after_encoder_layer(before, stream, view)
            features = stream if number == last else features
        places = features.visual
        return replace(
            features,
            hidden=vision.project(features.hidden[:, places]),
            positions=features.patches.clamp_min(0),
            front=0,
            there=None if features.there is None else features.there[:, places],
            shares=None if features.shares is None else features.shares[:, places],
            notes=stream.notes,
        )

    def sequence(self, encoded: Stream, question: Tensor, answer: Tensor | None = None) -> Stream:
        """Return what the language model reads: visual tokens at their places, and text behind all that there were."""
        front, asking = self.laid_out(question)
        text = asking if answer is None else torch.cat((asking, answer), 1)
        rows, before, behind = len(text), front.shape[1], text.shape[1]
        offsets, language = torch.arange(behind, device=text.device), self.language()
        places = (
            torch.arange(before, device=text.device).expand(rows, -1),
            before + encoded.positions,
            (before + self.visual.patches + offsets).expand(rows, -1),
        )
        return Stream(
            hidden=torch.cat((language.embed(front), encoded.hidden, language.embed(text)), 1),
            positions=torch.cat(places, 1),
            patches=encoded.patches,
            front=before,
            prompt=asking.shape[1],
            tokens=text,
            there=_widened(encoded.there, before, behind, True),
            shares=_widened(encoded.shares, before, behind, 1.0),
            notes=encoded.notes,
        )

    def read(self, stream: Stream, held: Held | None = None) -> Stream:
        """Run the language model's layers on a sequence, with all reducers."""
        language, seen = self.language(), list[Stream]()
        for reducer in self._reducers():
            stream = reducer.projected(stream)
        for number in range(self.visual.layers):
            view = _Remembering(language.view(number))
            for reducer in self._reducers():
                stream = reducer.before_layer(stream, view)
            before = stream
            seen.append(before)
            stream = before.with_(language.run(number, before, held, view.reading(before)))
            for reducer in self._reducers():
                stream = reducer.after_layer(before, stream, view)
        for listener in self.listeners:
            listener(tuple(seen))
        for reducer in self._reducers():
            reducer.report(seen[-1].counts)
        return stream

    def begin(self, encoded: Stream, question: Tensor, *, is_contiguous: bool = False) -> ReadPrompt:
        """Read visual tokens and a question, and keep what was read.

        Args:
            encoded: visual tokens, of `encode` or some of them.
            question: tokens (B, T).
            is_contiguous: whether positions are counted anew, as if there had been no other visual tokens.
        """
        sequence = self.sequence(encoded, question)
        held = Held(self.visual.layers, len(question))
        stream = self.read(sequence.reindexed() if is_contiguous else sequence, held)
        for reducer in self._reducers():
            reducer.after_prompt(held)
        return ReadPrompt(held, stream.notes, self.language().score(stream.hidden[:, stream.last]))

    def follow(self, read: ReadPrompt, tokens: Tensor) -> Tensor:
        """Read one more token (B,) of each answer, and return the scores (B, V) of the next; `read` grows."""
        language = self.language()
        hidden = language.embed(tokens[:, None])
        for number in range(self.visual.layers):
            hidden = language.step(number, hidden, read.held)
            for reducer in self._reducers():
                hidden = reducer.after_step(hidden, number, read.notes)
        read.scores = language.score(hidden[:, 0])
        return read.scores

    @torch.no_grad()
    def answers(self, images: Tensor, question: Tensor, longest: int = 8) -> list[tuple[int, ...]]:
        """Return the likeliest tokens of each answer, one after the other, without its end; of at most so many."""
        read = self.begin(self.encode(images, question), question)
        written = [read.scores.argmax(-1)]
        while len(written) < longest and not bool(torch.stack(written).eq(self.end).any(0).all()):
            written.append(self.follow(read, written[-1]).argmax(-1))
        rows = torch.stack(written, 1).tolist()
        return [tuple(row[: row.index(self.end)] if self.end in row else row) for row in rows]

    def _dialogue_of(self, count: int) -> tuple[Tensor, Tensor | None]:
        if self.dialogue is None:
            raise FedsimError(
                "the model reads a question beside each image, and was shown an image alone. For an attack, add "
                "'given' and 'labels' to threat.knows."
            )
        question, answer = self.dialogue
        chosen = torch.arange(count, device=question.device) % len(question)
        return question[chosen], None if answer is None else answer[chosen]

    def _encoder_layers(self) -> tuple[int, int]:
        """Return how many layers of the encoder reducers ask, and how many run: nobody reads the last one's output."""
        every, projected = self.visual.encoder_layers, self.visual.feature_layer + 1
        if any(reducer.reads_all_of_encoder for reducer in self._reducers()):
            return every, every
        if any(reducer.asks_all_of_encoder for reducer in self._reducers()):
            return every, max(every - 1, projected)
        return projected, projected

    def _reducers(self) -> list[VisualReducer]:
        return [reducer for reducer in self.reducers if isinstance(reducer, VisualReducer)]


class _Remembering:
    """A layer that remembers the attention of the pass in which it ran, so that nobody computes it again."""

    def __init__(self, view: LayerView) -> None:
        self.number, self._view = view.number, view
        self._read: Stream | None = None
        self._weights: Tensor | None = None

    def reading(self, stream: Stream) -> Seen:
        """Return what the layer shall show its attention to when it reads a stream."""
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


def _widened(values: Tensor | None, front: int, behind: int, value: float) -> Tensor | None:
    return None if values is None else nn.functional.pad(values, (front, behind), value=value)
