"""What two trainings differ in, of a loss whose every gradient is known."""

import math

import torch

from fedsim.components.unlearning.retraining import Retraining, RetrainingConfig
from tests.components.unlearning.requests import RATE, Simple


def forget(request: Simple) -> list[tuple[int, float, float, float]]:
    shown = Retraining(RetrainingConfig()).forget(request)
    return [
        (own.round, float(own.received_weights["w"]), float(own.update.tensors["w"]), own.update.loss) for own in shown
    ]


def test_updates_of_later_rounds_are_off_by_what_the_trainings_have_drifted_apart() -> None:
    """In round r the sums are 3 (w - 4) and 2 (w' - 2.5), so what is missing is w' - 7 + 3 (w - w')."""
    request = Simple(rounds=3, watched_rounds=(1, 3))
    found = forget(request)
    for (round_, at, gradient, loss), expected in zip(found, (1, 3), strict=True):
        before, after = request.weights(expected)["w"], request.retrained_weights(expected)["w"]
        assert round_ == expected
        assert at == float(after)
        assert math.isclose(gradient, float(after - 7 + 3 * (before - after)), abs_tol=1e-5)
        if expected == 1:
            assert math.isclose(loss, (10 - 7) ** 2 / 2, abs_tol=1e-5)


def test_models_after_many_rounds_show_the_mean_step_and_no_single_gradient() -> None:
    """Both trainings are geometric series: the mean step over R rounds is (10 - m) (1 - (1 - s)^R) / (s R)."""
    request = Simple("sum", rounds=5)
    ((round_, at, gradient, loss),) = forget(request)
    factor = (1 - (1 - RATE) ** 5) / (RATE * 5)
    assert (round_, math.isnan(loss)) == (5, True)
    assert at == float(request.retrained_weights(6)["w"])
    assert math.isclose(gradient, (4 * (10 - 3.5) - 3 * (10 - 7 / 3)) * factor, rel_tol=1e-5)


def test_two_models_after_one_round_are_taken_at_the_first_weights() -> None:
    ((_, at, gradient, _),) = forget(Simple("sum"))
    assert at == 10
    assert math.isclose(gradient, 10 - 7, abs_tol=1e-5)
    assert torch.equal(Simple("sum").weights(1)["w"], torch.tensor(10.0))
