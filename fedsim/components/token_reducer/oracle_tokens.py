"""oracle-tokens: keeps the visual tokens of the cell that the question names, then tokens of cells with a digit.

Idea: An upper bound for token dropping, with a perfect selection.
Equation: tokens ranked by (not in the named cell, cell is empty, number of brighter tokens in their cell, position);
    the first k are kept
Assumes: grids of digits, whose empty cells contain only weak noise, and words that name rows and columns. Position
    indices stay.
Leaks: the kept positions reveal the cell that the question names.
Fails: on all other images. No client could select tokens in this way.
Source: none; made for grids of digits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fedsim.components.token_reducer._choosing import KeptConfig, highest, refuses_count
from fedsim.core.hooks import VisualTokenReducer
from fedsim.core.nets.visual import Stream, VisualReducer, VisualShape
from fedsim.core.registry import component

_RANK = "oracle-tokens.rank"


class OracleTokensConfig(KeptConfig):
    """Settings of the oracle."""

    noise: float = Field(default=0.1, ge=0, description="pixels up to this value hold no digit")


@final
@component(
    "oracle-tokens", summary="keeps the visual tokens of the question's cell and of filled cells", tier="baseline"
)
class OracleTokens(VisualTokenReducer[OracleTokensConfig]):
    """Selects tokens with knowledge of the relevant cells."""

    def reducer(self, visual: VisualShape, generator: torch.Generator) -> VisualReducer:
        """Return a module that reads pixels and words."""
        return _Oracle(self.config, visual)

    def does_not_fit(self, visual: VisualShape) -> str | None:
        """Refuse to keep more tokens than an image has, and models without words for cells."""
        if "r0" not in visual.words:
            return "it needs words that name rows and columns, which the model 'tiny-vlm' has"
        return refuses_count(self.config.kept, visual)


class _Oracle(VisualReducer):
    def __init__(self, config: OracleTokensConfig, visual: VisualShape) -> None:
        super().__init__()
        self._kept, self._noise, self._visual = config.kept, config.noise, visual
        self._row, self._column = visual.words.index("r0"), visual.words.index("c0")
        self._cells = sum(word[0] == "r" and word[1:].isdigit() for word in visual.words)

    def look(self, images: Tensor, question: Tensor) -> Mapping[str, Tensor]:
        """Rank the patches; rank 0 has the highest priority."""
        rows, columns = self._visual.grid
        size = images.shape[2] // rows, images.shape[3] // columns
        bright = F.max_pool2d(images.amax(1, keepdim=True), size, size).flatten(1)
        cells = self._visual.cells_of_patches(self._cells).to(images.device)
        in_cell = cells[:, None] == torch.arange(self._cells**2, device=images.device)  # (N, cells)
        filled = (bright[:, :, None].where(in_cell, 0.0).amax(1) > self._noise)[:, cells]
        brighter = (bright[:, None] > bright[:, :, None]) | (
            (bright[:, None] == bright[:, :, None]) & torch.ones(len(cells), len(cells)).tril(-1).bool()
        )
        rank_in_cell = (brighter & (cells[:, None] == cells)).sum(2)
        wanted = (self._asked_cells(question)[:, None] == cells).long()
        key = (2 * wanted + filled.long()) * len(cells) - rank_in_cell
        rank = key.argsort(dim=1, descending=True, stable=True).argsort(1)
        return {_RANK: rank}

    def after_projection(self, stream: Stream) -> Stream:
        """Keep the tokens of the lowest ranks."""
        return stream.keep(highest(-stream.notes[_RANK].gather(1, stream.patches), self._kept))

    def _asked_cells(self, question: Tensor) -> Tensor:
        """Return the cell that the question names, (B,); -1 if it names none."""
        rows, columns = question - self._row, question - self._column
        has_row, has_column = ((places >= 0) & (places < self._cells) for places in (rows, columns))
        row, column = (rows * has_row).sum(1), (columns * has_column).sum(1)
        return torch.where(has_row.any(1) & has_column.any(1), row * self._cells + column, -1)
