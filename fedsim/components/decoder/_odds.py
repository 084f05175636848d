"""Odds of the next token by temperature and top-p, and the rule that makes speculation exact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fedsim.components.decoder._drawing import draw, nucleus
from fedsim.core.types import Config


class DrawConfig(Config):
    """Settings of what is drawn from."""

    temperature: float = Field(default=0.0, ge=0, description="T; at 0 the likeliest token is written")
    top_p: float = Field(default=1.0, gt=0, le=1, description="share p of the probability that may be drawn; T above 0")

    @model_validator(mode="after")
    def _nothing_is_drawn_at_zero(self) -> Self:
        if self.temperature == 0 and self.top_p < 1:
            raise ValueError(
                f"top_p is {self.top_p}, but at temperature 0 nothing is drawn: the likeliest token is written. Set a "
                "temperature above 0, or leave out top_p."
            )
        return self

    def odds(self, scores: Tensor) -> Tensor:
        """Return the probability of each token, in double precision; at temperature 0 all of it is on the likeliest."""
        if self.temperature == 0:
            return torch.zeros_like(scores, dtype=torch.double).scatter_(-1, scores.argmax(-1, keepdim=True), 1.0)
        return nucleus((scores.double() / self.temperature).softmax(-1), self.top_p)

    def draw(self, scores: Tensor, generator: torch.Generator) -> tuple[int, Tensor | None]:
        """Return a token by scores (V,), and the odds that it was drawn with; None where nothing is drawn."""
        if self.temperature == 0:
            return int(scores.argmax()), None
        odds = self.odds(scores)
        (token,) = draw(odds[None], [generator])
        return token, odds

    def stands(
        self, drafted: Sequence[int], drafter: Sequence[Tensor | None], scores: Tensor, generator: torch.Generator
    ) -> list[int]:
        """Return the drafted tokens that stand, and one more, as the model's own text goes.

        Args:
            drafted: n tokens.
            drafter: odds that each was drawn with, as `drawn` returned them.
            scores: of the model, (n + 1, V).
            generator: the text's randomness.
        """
        if self.temperature > 0:
            return judge(drafted, [chances for chances in drafter if chances is not None], self.odds(scores), generator)
        said: list[int] = scores.argmax(-1).tolist()
        count = next((place for place, token in enumerate(drafted) if said[place] != token), len(drafted))
        return said[: count + 1]


def judge(drafted: Sequence[int], drafter: Sequence[Tensor], target: Tensor, generator: torch.Generator) -> list[int]:
    """Return the drafted tokens that stand, and one more, so that each is distributed as the target's own.

    Leviathan, Kalman, Matias 2023, arXiv 2211.17192, section 2.3: a token x drawn from q stands with probability
    min(1, p(x) / q(x)); the first that does not is replaced by a draw from (p - q)+.

    Args:
        drafted: n tokens.
        drafter: q, the odds (V,) that each was drawn with, up to a factor.
        target: p, odds (n + 1, V) up to a factor for each row.
        generator: the text's randomness.
    """
    for place, token in enumerate(drafted):
        p, q = target[place] / target[place].sum(), drafter[place] / drafter[place].sum()
        chance = torch.rand(1, generator=generator, dtype=torch.double).item()
        if chance * float(q[token]) < float(p[token]):
            continue
        return [*drafted[:place], *draw((p - q).clamp(min=0)[None], [generator])]
    return [*drafted, *draw(target[-1:], [generator])]


def finite(scores: Tensor) -> Tensor:
    """Return the scores (n, V) in front of the first row that is no finite number."""
    is_broken = ~scores.amax(-1).isfinite()
    return scores[: int(is_broken.int().argmax())] if is_broken.any() else scores
