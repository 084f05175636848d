"""retraining: the federation trains again from its initial weights, without the examples to forget.

Idea: a model that never saw an example contains no information about it. A server that keeps the old model or updates
    has both versions.
Equation: k g_f = n g - (n - k) g', g and g' the means over n examples and over the remaining n - k
Assumes: the server knows n, k, its rate and the initial weights, and both trainings differ in little but the examples.
Leaks: g_f, the mean gradient of the forgotten examples: exactly in round 1 of full batches without dropout and noise.
Fails: new random draws of batches, masks and noise appear in the difference, multiplied by n / k.
Source: exact unlearning, Cao and Yang 2015, IEEE S&P; the difference is elementary.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import final

from torch import Tensor

from fedsim.core.hooks import Request, ServerEstimate, Unlearning
from fedsim.core.registry import component
from fedsim.core.types import Config, Tensors, Update


class RetrainingConfig(Config):
    """No settings."""


@final
@component("retraining", summary="unlearning: retrain without the forgotten examples (exact)", tier="core")
class Retraining(Unlearning[RetrainingConfig]):
    """The server compares the client's updates per round or, with sums alone, the two final global models."""

    def forget(self, request: Request) -> Sequence[ServerEstimate]:
        """Return the estimated gradients of the forgotten examples."""
        if request.view == "sum":
            return (_estimate_by_models(request),)
        return tuple(_estimate_by_updates(request, round_) for round_ in request.watched_rounds)


def _estimate_by_updates(request: Request, round_: int) -> ServerEstimate:
    retrained = request.retrained_weights(round_)
    whole, _ = request.update(round_, request.weights(round_), "all")
    rest_update, _ = request.update(round_, retrained, "rest")
    k, n, stay = request.forgotten, whole.examples, rest_update.examples
    loss = (n * whole.loss - stay * rest_update.loss) / k
    return ServerEstimate(
        round_,
        retrained,
        Update(whole.kind, _average_missing(whole.tensors, n, rest_update.tensors, stay, k), {}, k, loss),
    )


def _estimate_by_models(request: Request) -> ServerEstimate:
    """Estimate the gradient from the mean step of each training, which equals the mean gradient after one round."""
    rounds, first = request.rounds, request.weights(1)
    last, retrained = request.weights(rounds + 1), request.retrained_weights(rounds + 1)
    whole, rest_update = (
        {name: (first[name] - end[name]) / (request.rate * rounds) for name in end} for end in (last, retrained)
    )
    missing = _average_missing(whole, request.examples("all"), rest_update, request.examples("rest"), request.forgotten)
    return ServerEstimate(
        rounds, first if rounds == 1 else retrained, Update("gradient", missing, {}, request.forgotten, nan)
    )


def _average_missing(whole: Tensors, n: int, rest_update: Tensors, stay: int, k: int) -> dict[str, Tensor]:
    """Return the mean over the k missing examples, from the means over n and over `stay` examples."""
    return {name: (n * whole[name] - stay * rest_update[name]) / k for name in whole}
