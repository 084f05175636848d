"""What writes answers about images, token by token, for whoever chooses the tokens or changes what is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeGuard

from torch import Tensor

from fedsim.core.visual.held import Held
from fedsim.core.visual.reducer import ReadsImages, VisualReducer, can_read_images
from fedsim.core.visual.stream import Stream


@dataclass
class ReadPrompt:
    """A prompt that was read, behind which an answer is written.

    Attributes:
        held: what each layer holds.
        notes: what reducers noted.
        scores: of the next token, (B, V).
    """

    held: Held
    notes: Mapping[str, Tensor]
    scores: Tensor


class AnsweringModel(ReadsImages, Protocol):
    """A model that reads images and a question, and writes the answer token by token."""

    def encode(self, images: Tensor, question: Tensor) -> Stream:
        """Return the projected visual tokens alone."""
        ...

    def begin(self, encoded: Stream, question: Tensor, *, is_contiguous: bool = False) -> ReadPrompt:
        """Read visual tokens, or some of them, and a question, and keep what was read."""
        ...

    def follow(self, read: ReadPrompt, tokens: Tensor) -> Tensor:
        """Read one more token (B,) of each answer, and return the scores (B, V) of the next; `read` grows."""
        ...


def can_answer(model: object) -> TypeGuard[AnsweringModel]:
    """Say whether it is such a model."""
    return can_read_images(model) and all(hasattr(model, method) for method in ("encode", "begin", "follow"))


@contextmanager
def acting(model: ReadsImages, reducer: VisualReducer) -> Iterator[None]:
    """Have a reducer act behind those of a model, in this context."""
    model.reducers.append(reducer)
    try:
        yield
    finally:
        del model.reducers[-1]
