"""Next-token probabilities with temperature and top-p, and the acceptance rule of exact speculative decoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fedsim.components.decoder._drawing import draw, nucleus
from fedsim.core.types import Config


class DrawConfig(Config):
    """Settings of the sampling distribution."""

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
        """Return token probabilities, double precision; at temperature 0 a point mass on the most likely token."""
        if self.temperature == 0:
            return torch.zeros_like(scores, dtype=torch.double).scatter_(-1, scores.argmax(-1, keepdim=True), 1.0)
        return nucleus((scores.double() / self.temperature).softmax(-1), self.top_p)

    def draw(self, scores: Tensor, generator: torch.Generator) -> tuple[int, Tensor | None]:
        """Sample a token from scores (V,); return it with its distribution, which is None at temperature 0."""
        if self.temperature == 0:
            return int(scores.argmax()), None
        odds = self.odds(scores)
        (token,) = draw(odds[None], [generator])
        return token, odds

    def stands(
        self, drafted: Sequence[int], drafter: Sequence[Tensor | None], scores: Tensor, generator: torch.Generator
    ) -> list[int]:
        """Return the accepted draft tokens and one more token, distributed as the model's own text.

        Args:
            drafted: n draft tokens.
            drafter: distribution of each draft token, as returned by `draw`.
            scores: scores of the model, (n + 1, V).
            generator: random source of the text.
        """
        if self.temperature > 0:
            return judge(drafted, [chances for chances in drafter if chances is not None], self.odds(scores), generator)
        said: list[int] = scores.argmax(-1).tolist()
        count = next((place for place, token in enumerate(drafted) if said[place] != token), len(drafted))
        return said[: count + 1]


def judge(drafted: Sequence[int], drafter: Sequence[Tensor], target: Tensor, generator: torch.Generator) -> list[int]:
    """Return the accepted draft tokens and one more token, each distributed as the target.

    Leviathan, Kalman, Matias 2023, arXiv 2211.17192, section 2.3: a token x sampled from q is accepted with probability
    min(1, p(x) / q(x)); the first rejected token is replaced by a sample from (p - q)+.

    Args:
        drafted: n draft tokens.
        drafter: q, distribution (V,) of each draft token, up to a factor.
        target: p, distributions (n + 1, V), up to a factor per row.
        generator: random source of the text.
    """
    for place, token in enumerate(drafted):
        p, q = target[place] / target[place].sum(), drafter[place] / drafter[place].sum()
        chance = torch.rand(1, generator=generator, dtype=torch.double).item()
        if chance * float(q[token]) < float(p[token]):
            continue
        return [*drafted[:place], *draw((p - q).clamp(min=0)[None], [generator])]
    return [*drafted, *draw(target[-1:], [generator])]


def finite(scores: Tensor) -> Tensor:
    """Return the scores (n, V) before the first row whose maximum is not finite."""
    is_broken = ~scores.amax(-1).isfinite()
    return scores[: int(is_broken.int().argmax())] if is_broken.any() else scores
