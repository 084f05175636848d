"""Interface of visual token reducers, and of the vision-language models that they act on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeGuard

import torch
from torch import Tensor, nn

from fedsim.core.errors import NotApplicable
from fedsim.core.nets.kept_tokens import Reducing
from fedsim.core.nets.visual.held import PromptCache
from fedsim.core.nets.visual.stream import Stream


class LayerView(Protocol):
    """A layer of the vision encoder or of the language model, with access to its attention."""

    @property
    def number(self) -> int:
        """Index of the layer, from 0."""
        ...

    def queries_keys(self, stream: Stream) -> tuple[Tensor, Tensor]:
        """Return queries and keys of its heads for a stream, (B, heads, L, features), with position encoding."""
        ...

    def attention(self, stream: Stream, rows: slice | None = None) -> Tensor:
        """Return its attention for a stream, (B, heads, rows, L), of all query tokens or of a slice."""
        ...


@dataclass(frozen=True)
class VisualShape:
    """Dimensions of a vision-language model.

    Attributes:
        grid: numbers of patch rows and columns of an image.
        encoder_layers: number of layers of the vision encoder.
        feature_layer: index of the encoder layer whose output goes to the projector.
        layers: number of layers of the language model.
        encoder_width: width of a token in the encoder.
        width: width of a token in the language model.
        words: word of each text token; () if unknown.
        vocabulary: number of text tokens; None if unknown.
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
        """Number of visual tokens of an image."""
        return self.grid[0] * self.grid[1]

    def cells_of_patches(self, cells: int) -> Tensor:
        """Return the cell of each patch, in raster order, if an image is split into cells x cells parts, (N,)."""
        rows, columns = (torch.arange(length) * cells // length for length in self.grid)
        return (rows[:, None] * cells + columns).flatten()


class VisualReducer(Reducing):
    """Drops, merges or corrects visual tokens. Subclasses override some methods; by default none acts.

    Order of calls in training and in processing a prompt: `look`, `before_encoder_layer` and `after_encoder_layer` of
    each layer, `after_projection`, then `before_layer` and `after_layer` of each layer of the language model. After a
    prompt `after_prompt`, then `after_step` of each layer for each generated token. The model reports the kept tokens.

    Attributes:
        reads_all_of_encoder: whether it acts on encoder layers after the projected one, which models skip otherwise.
        asks_all_of_encoder: whether it acts only before those layers; then the last layer's attention is computed, but
            the layer does not run.
    """

    reads_all_of_encoder: ClassVar[bool] = False
    asks_all_of_encoder: ClassVar[bool] = False

    def look(self, images: Tensor, question: Tensor) -> Mapping[str, Tensor]:
        """Return notes from images (B, C, H, W) and question tokens (B, T)."""
        return {}

    def before_encoder_layer(self, stream: Stream, layer: LayerView) -> Stream:
        """Return the input of an encoder layer. The first token is the class token."""
        return stream

    def after_encoder_layer(self, before: Stream, after: Stream, layer: LayerView) -> Stream:
        """Return the input of the next encoder layer. The first token is the class token."""
        return after

    def after_projection(self, stream: Stream) -> Stream:
        """Return the input of the language model, which includes the question."""
        return stream

    def before_layer(self, stream: Stream, layer: LayerView) -> Stream:
        """Return the input of a layer of the language model."""
        return stream

    def after_layer(self, before: Stream, after: Stream, layer: LayerView) -> Stream:
        """Return the output of a layer of the language model, given its input `before`."""
        return after

    def after_prompt(self, held: PromptCache) -> None:
        """Change the layers' key-value caches before the first token is generated."""

    def after_step(self, hidden: Tensor, layer: int, notes: Mapping[str, Tensor]) -> Tensor:
        """Return the states (B, 1, width) of a generated token after a layer."""
        return hidden


class ReadsImages(Protocol):
    """A vision-language model on which reducers can act.

    Attributes:
        reducers: its modules of class `VisualReducer`.
        visual: its dimensions.
        listeners: called with the input streams of all layers of the language model.
        dialogue: questions, and answers without their last token, used when the model is called with images alone.
    """

    reducers: nn.ModuleList
    visual: VisualShape
    listeners: list[Callable[[tuple[Stream, ...]], None]]
    dialogue: tuple[Tensor, Tensor | None] | None


def can_read_images(model: object) -> TypeGuard[ReadsImages]:
    """Return whether the model implements `ReadsImages`.

    Since Python 3.12 `isinstance` misses registered submodules.
    """
    return all(hasattr(model, attribute) for attribute in ("reducers", "visual", "listeners", "dialogue"))


def reads_images(model: nn.Module, name: str) -> ReadsImages:
    """Return the model as a `ReadsImages`.

    Args:
        model: the clients' model.
        name: name of the requesting component, for the message.

    Raises:
        NotApplicable: the model has no visual tokens.
    """
    if can_read_images(model):
        return model
    raise NotApplicable(
        f"component '{name}' leaves visual tokens out, and model {type(model).__name__} has none. Choose a model that "
        'reads images and a question, for example model.name = "tiny-vlm".'
    )
