"""Interface for generating answers about images token by token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeGuard

from torch import Tensor

from fedsim.core.nets.visual.held import PromptCache
from fedsim.core.nets.visual.reducer import ReadsImages, VisualReducer, can_read_images
from fedsim.core.nets.visual.stream import Stream


@dataclass
class ReadPrompt:
    """A processed prompt, which an answer continues.

    Attributes:
        prompt_cache: key-value caches of the layers.
        notes: tensors stored by reducers.
        scores: next-token scores, (B, V).
    """

    prompt_cache: PromptCache
    notes: Mapping[str, Tensor]
    scores: Tensor


class AnsweringModel(ReadsImages, Protocol):
    """A vision-language model that generates an answer token by token."""

    def encode(self, images: Tensor, question: Tensor) -> Stream:
        """Return the projected visual tokens only."""
        ...

    def begin(self, encoded: Stream, question: Tensor, *, is_contiguous: bool = False) -> ReadPrompt:
        """Process visual tokens (all or a subset) and a question, and cache them."""
        ...

    def follow(self, read: ReadPrompt, tokens: Tensor) -> Tensor:
        """Process a further token (B,) of each answer, and return the next-token scores (B, V); `read` is updated."""
        ...


def can_answer(model: object) -> TypeGuard[AnsweringModel]:
    """Return whether the model implements `AnsweringModel`."""
    return can_read_images(model) and all(hasattr(model, method) for method in ("encode", "begin", "follow"))


@contextmanager
def add_reducer(model: ReadsImages, reducer: VisualReducer) -> Iterator[None]:
    """Append a reducer to a model's reducers within the context."""
    model.reducers.append(reducer)
    try:
        yield
    finally:
        del model.reducers[-1]
