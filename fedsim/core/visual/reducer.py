"""Where a reducer of visual tokens acts in a model that reads images, and what such a model says of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeGuard

import torch
from torch import Tensor, nn

from fedsim.core.errors import NotApplicable
from fedsim.core.kept_tokens import Reducing
from fedsim.core.visual.held import Held
from fedsim.core.visual.stream import Stream


class LayerView(Protocol):
    """A layer of the vision encoder or of the language model, asked about its attention."""

    @property
    def number(self) -> int:
        """Its number, from 0."""
        ...

    def queries_keys(self, stream: Stream) -> tuple[Tensor, Tensor]:
        """Return what its heads compare when it reads a stream, each (B, heads, L, features), with positions in it."""
        ...

    def attention(self, stream: Stream, rows: slice | None = None) -> Tensor:
        """Return its attention when it reads a stream, (B, heads, rows, L), of all tokens or those of a slice."""
        ...


@dataclass(frozen=True)
class VisualShape:
    """What a model that reads images says of itself.

    Attributes:
        grid: patches of an image, down and across.
        encoder_layers: of the vision encoder.
        feature_layer: number of the encoder layer whose output goes to the projector.
        layers: of the language model.
        encoder_width: size of a token in the encoder.
        width: size of a token in the language model.
        words: what each token of the text is; () where nobody says so.
        vocabulary: tokens of the text that there are; None where nobody says so.
    """

    grid: tuple[int, int]
    encoder_layers: int
    feature_layer: int
    layers: int
    encoder_width: int
    width: int
    words: tuple[str, ...] = ()
    vocabulary: int | None = None

    @property
    def patches(self) -> int:
        """Visual tokens of an image."""
        return self.grid[0] * self.grid[1]

    def cells_of_patches(self, cells: int) -> Tensor:
        """Return in which of cells x cells equal parts of the image each patch lies, in the raster's order, (N,)."""
        rows, columns = (torch.arange(length) * cells // length for length in self.grid)
        return (rows[:, None] * cells + columns).flatten()


class VisualReducer(Reducing):
    """Leaves visual tokens out, merges them or mends what is left. Each moment is one method; by default none acts.

    Moments come in this order. In training and in reading a prompt: `look`, `before_encoder_layer` and
    `after_encoder_layer` of each layer, `projected`, then `before_layer` and `after_layer` of each layer of the
    language model. Behind a prompt `after_prompt`, and then `after_step` of each layer for each token that is written.
    The model reports what is kept.

    Attributes:
        reads_all_of_encoder: whether it acts on encoder layers behind the one whose output is projected, which a model
            leaves out otherwise.
        asks_all_of_encoder: whether it acts before those layers alone; then the last one is asked, but does not run.
    """

    reads_all_of_encoder: ClassVar[bool] = False
    asks_all_of_encoder: ClassVar[bool] = False

    def look(self, images: Tensor, question: Tensor) -> Mapping[str, Tensor]:
        """Return notes about images (B, C, H, W) and the tokens that ask (B, T)."""
        return {}

    def before_encoder_layer(self, stream: Stream, layer: LayerView) -> Stream:
        """Return what an encoder layer reads. The token in front is the class token."""
        return stream

    def after_encoder_layer(self, before: Stream, after: Stream, layer: LayerView) -> Stream:
        """Return what the next encoder layer reads. The token in front is the class token."""
        return after

    def projected(self, stream: Stream) -> Stream:
        """Return what the language model reads; the question stands in it."""
        return stream

    def before_layer(self, stream: Stream, layer: LayerView) -> Stream:
        """Return what a layer of the language model reads."""
        return stream

    def after_layer(self, before: Stream, after: Stream, layer: LayerView) -> Stream:
        """Return what comes out of a layer of the language model, given what it read."""
        return after

    def after_prompt(self, held: Held) -> None:
        """Change what the layers hold, before the first token is written."""

    def after_step(self, hidden: Tensor, layer: int, notes: Mapping[str, Tensor]) -> Tensor:
        """Return the states (B, 1, width) of a token that is being written, behind a layer."""
        return hidden


class ReadsImages(Protocol):
    """A model that reads images and text, and lets reducers act.

    Attributes:
        reducers: of kind `VisualReducer`.
        visual: what it says of itself.
        listeners: are called with what each layer of the language model read.
        dialogue: the questions, and answers but their last token, that it takes where it is shown images alone.
    """

    reducers: nn.ModuleList
    visual: VisualShape
    listeners: list[Callable[[tuple[Stream, ...]], None]]
    dialogue: tuple[Tensor, Tensor | None] | None


def can_read_images(model: object) -> TypeGuard[ReadsImages]:
    """Say whether it is such a model. From Python 3.12 on `isinstance` overlooks what is a module in a module."""
    return all(hasattr(model, attribute) for attribute in ("reducers", "visual", "listeners", "dialogue"))


def reads_images(model: nn.Module, name: str) -> ReadsImages:
    """Return a model as one that reads images.

    Args:
        model: the clients'.
        name: of the component that asks, for the message.

    Raises:
        NotApplicable: it has no visual tokens.
    """
    if can_read_images(model):
        return model
    raise NotApplicable(
        f"component '{name}' leaves visual tokens out, and model {type(model).__name__} has none. Choose a model that "
        'reads images beside a question, for example model.name = "tiny-vlm".'
    )
