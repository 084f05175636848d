"""Which visual tokens a model kept in each forward pass, for whoever scores or draws them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from fedsim.core.visual.reducer import reads_images
from fedsim.core.visual.stream import Stream


@dataclass(frozen=True)
class Passed:
    """One forward pass.

    Attributes:
        patches: of each layer of the language model, the numbers of the visual tokens that it read, (B, n); -1 fills
            up.
        tokens: of each layer, all tokens that count of each example, (B,).
    """

    patches: tuple[Tensor, ...]
    tokens: tuple[tuple[int, ...], ...]

    @property
    def visual(self) -> list[list[int]]:
        """Visual tokens of each example in each layer."""
        return [(patch >= 0).sum(1).tolist() for patch in self.patches]


@contextmanager
def visual_passes(model: nn.Module) -> Iterator[list[Passed]]:
    """Collect what every forward pass in the context keeps.

    Raises:
        NotApplicable: the model has no visual tokens.
    """
    reader = reads_images(model, "visual_passes")
    passes: list[Passed] = []

    def listen(streams: tuple[Stream, ...]) -> None:
        passes.append(Passed(tuple(one.patches.detach() for one in streams), tuple(map(_tokens, streams))))

    reader.listeners.append(listen)
    try:
        yield passes
    finally:
        reader.listeners.remove(listen)


def _tokens(stream: Stream) -> tuple[int, ...]:
    rows, tokens = stream.positions.shape
    return (tokens,) * rows if stream.there is None else tuple(stream.there.sum(1).tolist())
