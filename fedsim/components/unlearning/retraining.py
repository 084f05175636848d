"""retraining: the federation trains again from its first weights, without the examples to forget.

Idea: a model that never saw an example holds nothing of it. Who keeps the old model, or the old updates, has both.
Equation: k g_f = n g - (n - k) g', g and g' the means over n examples and over the n - k that stay
Assumes: the server knows n, k, its rate and the first weights, and both trainings differ in little but the examples.
Leaks: g_f, the mean gradient of what is forgotten: exactly in round 1 of full batches without dropout and noise.
Fails: draws that are new, as of batches, masks and noise, stand in the difference n times as large.
Source: exact unlearning, Cao and Yang 2015, IEEE S&P; the difference is elementary.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import final

from torch import Tensor

from fedsim.core.hooks import Request, Shown, Unlearning
from fedsim.core.registry import component
from fedsim.core.types import Config, Tensors, Update


class RetrainingConfig(Config):
    """No settings."""


@final
@component("retraining", summary="unlearning: train again without what is forgotten (exact)")
class Retraining(Unlearning[RetrainingConfig]):
    """The server compares the client's updates round by round, or, of sums alone, the two last global models."""

    def forget(self, request: Request) -> Sequence[Shown]:
        """Return the gradients that are missing."""
        if request.sees == "sum":
            return (_between_models(request),)
        return tuple(_between_updates(request, round_) for round_ in request.watched)


def _between_updates(request: Request, round_: int) -> Shown:
    again = request.retrained(round_)
    whole, _ = request.update(round_, request.weights(round_), "all")
    rest, _ = request.update(round_, again, "rest")
    k, n, stay = request.forgotten, whole.examples, rest.examples
    loss = (n * whole.loss - stay * rest.loss) / k
    return Shown(round_, again, Update(whole.kind, _missing(whole.tensors, n, rest.tensors, stay, k), {}, k, loss))


def _between_models(request: Request) -> Shown:
    """Take the mean step of each training for a mean gradient, which it is after one round."""
    rounds, first = request.rounds, request.weights(1)
    last, again = request.weights(rounds + 1), request.retrained(rounds + 1)
    whole, rest = ({name: (first[name] - end[name]) / (request.rate * rounds) for name in end} for end in (last, again))
    missing = _missing(whole, request.examples("all"), rest, request.examples("rest"), request.forgotten)
    return Shown(rounds, first if rounds == 1 else again, Update("gradient", missing, {}, request.forgotten, nan))


def _missing(whole: Tensors, n: int, rest: Tensors, stay: int, k: int) -> dict[str, Tensor]:
    """Return the mean that k examples add to that of the others."""
    return {name: (n * whole[name] - stay * rest[name]) / k for name in whole}
