"""Hidden states between layers, with data of each token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fedsim.core.nets.kv_cache.positions import places_of


@dataclass(frozen=True)
class Stream:
    """A sequence of tokens: front tokens, visual tokens, then text, which may be empty.

    Attributes:
        hidden_states: states (B, L, width).
        positions: position index of each token (B, L).
        patches: raster index of each visual token's patch, (B, n); -1 for padding of rows with fewer tokens.
        front: number of tokens before the visual tokens.
        prompt: number of question tokens; answer tokens follow them.
        tokens: text token ids, (B, L - front - n).
        present: mask of tokens that count (are not padding), (B, L); None for all.
        shares: factor of the attention to each token, (B, L), before normalisation; None for 1.
        notes: tensors that a reducer stores for later layers and steps, by name, with examples in the first dimension.
    """

    hidden_states: Tensor
    positions: Tensor
    patches: Tensor
    front: int
    prompt: int = 0
    tokens: Tensor | None = None
    present: Tensor | None = None
    shares: Tensor | None = None
    notes: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    @property
    def visual(self) -> slice:
        """Slice of the visual tokens."""
        return slice(self.front, self.front + self.patches.shape[1])

    @property
    def question_slice(self) -> slice:
        """Slice of the question tokens."""
        return slice(self.visual.stop, self.visual.stop + self.prompt)

    @property
    def last(self) -> int:
        """Index of the prompt's last token, which predicts the first token of the answer."""
        return self.question_slice.stop - 1

    @property
    def prediction_slice(self) -> slice:
        """Slice of the tokens that predict an answer's tokens."""
        return slice(self.last, self.hidden_states.shape[1])

    @property
    def counts(self) -> Tensor | list[int]:
        """Number of visual tokens that count in each example."""
        rows, tokens = self.patches.shape
        return [tokens] * rows if self.present is None else self.present[:, self.visual].sum(1)

    def with_hidden_states(self, hidden: Tensor) -> Stream:
        """Return the stream with other states."""
        return replace(self, hidden_states=hidden)

    def with_notes(self, **notes: Tensor) -> Stream:
        """Return the stream with additional notes."""
        return replace(self, notes={**self.notes, **notes})

    def keep(self, chosen: Tensor) -> Stream:
        """Return the stream with a subset of the visual tokens, equally many per example; positions stay.

        Args:
            chosen: indices among the current visual tokens, (B, k), in the resulting order.
        """
        rows, before, tokens = len(self.hidden_states), self.front, self.patches.shape[1]
        indices = torch.arange(self.hidden_states.shape[1], device=chosen.device).expand(rows, -1)
        places = torch.cat((indices[:, :before], before + chosen, indices[:, before + tokens :]), 1)
        return replace(
            self,
            hidden_states=_rows_at(self.hidden_states, places),
            positions=self.positions.gather(1, places),
            patches=self.patches.gather(1, chosen),
            present=None if self.present is None else self.present.gather(1, places),
            shares=None if self.shares is None else self.shares.gather(1, places),
        )

    def keep_where(self, kept: Tensor) -> Stream:
        """Return the stream with the visual tokens of a mask (B, n); examples may keep different numbers of tokens.

        Padding is never kept. Rows with fewer tokens are padded with tokens that do not count.
        """
        if self.present is not None:
            kept = kept & self.present[:, self.visual]
        if bool(kept.all()):
            return self
        chosen, counts = places_of(kept)
        shorter = self.keep(chosen)
        if min(counts) == max(counts):
            return shorter if shorter.present is None else replace(shorter, present=_all_but_fillers(shorter))
        numbers = torch.arange(max(counts), device=kept.device)
        is_there = numbers < torch.tensor(counts, device=kept.device)[:, None]
        is_present = torch.ones(shorter.hidden_states.shape[:2], dtype=torch.bool, device=kept.device)
        is_present[:, shorter.visual] = is_there
        return replace(shorter, present=is_present, patches=shorter.patches.where(is_there, -1))

    def reindex_positions(self) -> Stream:
        """Return the stream with positions 0, 1, 2, ... of the tokens that count."""
        rows, tokens = self.positions.shape
        if self.present is None:
            return replace(self, positions=torch.arange(tokens, device=self.positions.device).expand(rows, -1))
        return replace(self, positions=(self.present.long().cumsum(1) - 1).clamp_min(0))

    def mask(self, *, causal: bool) -> Tensor | None:
        """Return the additive attention mask, (B or 1, 1, L, L); None if nothing is masked."""
        tokens, like = self.hidden_states.shape[1], self.hidden_states
        added = None
        if causal:
            added = torch.full((1, 1, tokens, tokens), -torch.inf, dtype=like.dtype, device=like.device).triu(1)
        if self.present is None:
            return added
        hidden = torch.zeros(self.present.shape, dtype=like.dtype, device=like.device)
        hidden = hidden.masked_fill(~self.present, -torch.inf)[:, None, None]
        return hidden if added is None else added + hidden


def _rows_at(hidden: Tensor, places: Tensor) -> Tensor:
    """Return states (B, k, width) at indices (B, k). Copies whole rows, which is faster than `gather`."""
    rows, tokens, _ = hidden.shape
    firsts = tokens * torch.arange(rows, device=places.device)[:, None]
    return hidden.flatten(0, 1).index_select(0, (firsts + places).flatten()).unflatten(0, places.shape)


def _all_but_fillers(stream: Stream) -> Tensor:
    """Return the mask of tokens that count if all visual tokens do."""
    assert stream.present is not None
    is_present = stream.present.clone()
    is_present[:, stream.visual] = True
    return is_present
