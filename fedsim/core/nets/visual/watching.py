"""Recording of the visual tokens that a model keeps in each forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from fedsim.core.nets.visual.reducer import reads_images
from fedsim.core.nets.visual.stream import Stream


@dataclass(frozen=True)
class Passed:
    """Record of a forward pass.

    Attributes:
        patches: patch indices of the visual tokens in each layer of the language model, (B, n); -1 for padding.
        tokens: number of tokens that count in each example, by layer.
    """

    patches: tuple[Tensor, ...]
    tokens: tuple[tuple[int, ...], ...]

    @property
    def visual(self) -> list[list[int]]:
        """Number of visual tokens of each example, by layer."""
        return [(patch >= 0).sum(1).tolist() for patch in self.patches]


@contextmanager
def visual_passes(model: nn.Module) -> Iterator[list[Passed]]:
    """Record the kept tokens of each forward pass within the context.

    Raises:
        NotApplicable: the model has no visual tokens.
    """
    reader = reads_images(model, "visual_passes")
    passes: list[Passed] = []

    def listen(streams: tuple[Stream, ...]) -> None:
        passes.append(Passed(tuple(stream.patches.detach() for stream in streams), tuple(map(_tokens, streams))))

    reader.listeners.append(listen)
    try:
        yield passes
    finally:
        reader.listeners.remove(listen)


def _tokens(stream: Stream) -> tuple[int, ...]:
    rows, tokens = stream.positions.shape
    return (tokens,) * rows if stream.present is None else tuple(stream.present.sum(1).tolist())
