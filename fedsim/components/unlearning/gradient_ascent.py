"""gradient-ascent: the client runs a gradient ascent step on the loss of the examples to forget.

Idea: a step against the descent direction of the examples undoes part of their effect.
Equation: w' = w + s g(w), g the mean gradient of the examples to forget at the last weights w, s the server's rate
Assumes: the client still has the examples; it trains with its own dropout and defenses.
Leaks: the update is the gradient of these examples alone, without other examples to hide them.
Fails: it is unknown whether the example is forgotten; many steps destroy the model.
Source: the simplest method in Halimi et al. 2022, arXiv 2207.05521, of which only the idea is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

from fedsim.core.hooks import Request, ServerEstimate, Unlearning
from fedsim.core.registry import component
from fedsim.core.types import Config


class GradientAscentConfig(Config):
    """No settings."""


@final
@component(
    "gradient-ascent",
    summary="unlearning: a single ascent step on the loss of the forgotten examples",
    tier="baseline",
    related="2207.05521",
)
class GradientAscent(Unlearning[GradientAscentConfig]):
    """An additional round of a client. Two global models contain the same as its update, up to rounding."""

    is_one_step: ClassVar[bool] = True

    def forget(self, request: Request) -> Sequence[ServerEstimate]:
        """Return the negated step: the gradient of the examples to forget."""
        round_ = request.rounds + 1
        weights = request.weights(round_)
        update, truth = request.update(round_, weights, "forgotten")
        return (ServerEstimate(round_, weights, update, truth),)
