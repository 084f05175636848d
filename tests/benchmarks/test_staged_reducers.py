"""Thresholds are found that leave as many tokens as are asked for."""

import pytest

from benchmarks import staged_reducers as own
from fedsim.bench import grids
from fedsim.core.types import Batch


def test_a_threshold_leaves_about_as_many_tokens_as_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "_HALVINGS", 6)
    plain, batch = grids.fresh(), Batch.joined([own.questions("position", 4, 0)])
    theta = own.calibrated(24, (1,), plain, batch)
    left = own.tokens_left(own.with_theta(theta, (1,)), plain, batch)
    more, fewer = (own.tokens_left(own.with_theta(factor * theta, (1,)), plain, batch) for factor in (0.5, 2.0))
    assert more > left > fewer
    assert left == pytest.approx(24, abs=4)  # four questions, and seven more or fewer tokens a tenth of theta
