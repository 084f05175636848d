"""Hidden states on their way through layers, with what is known of each token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fedsim.core.past.places import places_of


@dataclass(frozen=True)
class Stream:
    """A sequence of tokens: those in front, the visual ones, then text, which may be none.

    Attributes:
        hidden: states (B, L, width).
        positions: of each token (B, L).
        patches: number of each visual token in the image's raster, (B, n); -1 fills up rows that keep fewer.
        front: tokens before the visual ones.
        prompt: tokens of the text that ask; an answer's tokens follow them.
        tokens: of the text, (B, L - front - n).
        there: which tokens count, (B, L); None where all do.
        shares: factor on the attention that each token gets, (B, L), before rows are made to add up to 1; None for 1.
        notes: what a reducer keeps for later layers and steps, by a name of its own, the first dimension the example.
    """

    hidden: Tensor
    positions: Tensor
    patches: Tensor
    front: int
    prompt: int = 0
    tokens: Tensor | None = None
    there: Tensor | None = None
    shares: Tensor | None = None
    notes: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    @property
    def visual(self) -> slice:
        """Places of the visual tokens."""
        return slice(self.front, self.front + self.patches.shape[1])

    @property
    def asking(self) -> slice:
        """Places of the text that asks."""
        return slice(self.visual.stop, self.visual.stop + self.prompt)

    @property
    def last(self) -> int:
        """Place of the last token of the prompt, which predicts the first one of the answer."""
        return self.asking.stop - 1

    @property
    def predicting(self) -> slice:
        """Places that predict an answer's tokens."""
        return slice(self.last, self.hidden.shape[1])

    @property
    def counts(self) -> Tensor | list[int]:
        """How many visual tokens count in each example."""
        rows, tokens = self.patches.shape
        return [tokens] * rows if self.there is None else self.there[:, self.visual].sum(1)

    def with_(self, hidden: Tensor) -> Stream:
        """Return it with other states."""
        return replace(self, hidden=hidden)

    def noted(self, **notes: Tensor) -> Stream:
        """Return it with more notes."""
        return replace(self, notes={**self.notes, **notes})

    def keep(self, chosen: Tensor) -> Stream:
        """Return it with chosen visual tokens alone, as many of each example; all others stay, and so do positions.

        Args:
            chosen: their places among the visual tokens now, (B, k), in the order that they shall have.
        """
        rows, before, tokens = len(self.hidden), self.front, self.patches.shape[1]
        every = torch.arange(self.hidden.shape[1], device=chosen.device).expand(rows, -1)
        places = torch.cat((every[:, :before], before + chosen, every[:, before + tokens :]), 1)
        return replace(
            self,
            hidden=_rows_at(self.hidden, places),
            positions=self.positions.gather(1, places),
            patches=self.patches.gather(1, chosen),
            there=None if self.there is None else self.there.gather(1, places),
            shares=None if self.shares is None else self.shares.gather(1, places),
        )

    def keep_where(self, kept: Tensor) -> Stream:
        """Return it with the visual tokens of a mask (B, n) alone; examples may keep different numbers of them.

        Tokens that do not count are not kept. Rows with fewer tokens are filled up with some that do not count.
        """
        if self.there is not None:
            kept = kept & self.there[:, self.visual]
        if bool(kept.all()):
            return self
        chosen, counts = places_of(kept)
        shorter = self.keep(chosen)
        if min(counts) == max(counts):
            return shorter if shorter.there is None else replace(shorter, there=_all_but_fillers(shorter))
        numbers = torch.arange(max(counts), device=kept.device)
        is_there = numbers < torch.tensor(counts, device=kept.device)[:, None]
        there = torch.ones(shorter.hidden.shape[:2], dtype=torch.bool, device=kept.device)
        there[:, shorter.visual] = is_there
        return replace(shorter, there=there, patches=shorter.patches.where(is_there, -1))

    def reindexed(self) -> Stream:
        """Return it with positions 0, 1, 2 and so on of the tokens that count."""
        rows, tokens = self.positions.shape
        if self.there is None:
            return replace(self, positions=torch.arange(tokens, device=self.positions.device).expand(rows, -1))
        return replace(self, positions=(self.there.long().cumsum(1) - 1).clamp_min(0))

    def mask(self, *, causal: bool) -> Tensor | None:
        """Return what is added to scores of attention, (B or 1, 1, L, L); None where nothing is hidden."""
        tokens, like = self.hidden.shape[1], self.hidden
        added = None
        if causal:
            added = torch.full((1, 1, tokens, tokens), -torch.inf, dtype=like.dtype, device=like.device).triu(1)
        if self.there is None:
            return added
        hidden = torch.zeros(self.there.shape, dtype=like.dtype, device=like.device)
        hidden = hidden.masked_fill(~self.there, -torch.inf)[:, None, None]
        return hidden if added is None else added + hidden


def _rows_at(hidden: Tensor, places: Tensor) -> Tensor:
    """Return states (B, k, width) at places (B, k). Whole rows are copied, which is faster than to gather numbers."""
    rows, tokens, _ = hidden.shape
    firsts = tokens * torch.arange(rows, device=places.device)[:, None]
    return hidden.flatten(0, 1).index_select(0, (firsts + places).flatten()).unflatten(0, places.shape)


def _all_but_fillers(stream: Stream) -> Tensor:
    """Return which tokens count where every visual one does."""
    assert stream.there is not None
    there = stream.there.clone()
    there[:, stream.visual] = True
    return there
