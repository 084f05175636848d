"""Tokens wait at random, none is lost, and all have left at the end."""

from itertools import accumulate

import pytest

from fedsim.components.mitigation.trace_delay import TraceDelay, TraceDelayConfig
from fedsim.core.types import Trace
from tests.components.mitigation.traces import source

OWN = Trace((1, 2, 3, 1) * 500)


def test_no_token_is_early_and_none_is_lost() -> None:
    (hidden,) = TraceDelay(TraceDelayConfig(chance=0.3)).transform([OWN], source())
    assert sum(hidden.tokens) == sum(OWN.tokens)
    sent, ready = list(accumulate(hidden.tokens)), list(accumulate(OWN.tokens))
    assert all(one <= other for one, other in zip(sent, ready, strict=True))
    assert all(one in (0, other) or one in ready for one, other in zip(sent, ready, strict=True))


def test_tokens_that_wait_at_the_end_leave_with_the_last_step() -> None:
    for seed in range(50):
        (hidden,) = TraceDelay(TraceDelayConfig(chance=0.5)).transform([Trace((1, 2, 3))], source(seed))
        assert (len(hidden.tokens), sum(hidden.tokens)) == (3, 6)


def test_so_many_steps_send_nothing() -> None:
    (hidden,) = TraceDelay(TraceDelayConfig(chance=0.3)).transform([OWN], source())
    share = sum(count == 0 for count in hidden.tokens) / len(hidden.tokens)
    assert share == pytest.approx(0.3, abs=0.04)  # four standard errors of 2,000 coins
