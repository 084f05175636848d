"""Losses, confidences and their logits against probabilities written out, and where these round to 0 or 1."""

import math

import pytest

from attacks.membership._signals import confidences, losses, scale
from tests.attacks.membership.linear import batch, loss, observed, probability, weights


def test_signals_are_those_of_the_probability_of_each_own_label() -> None:
    seen, own, both = observed(), weights(3), batch(6, 1)
    chances = [probability(own, both, i) for i in range(6)]
    assert losses(seen, own, both).tolist() == pytest.approx([loss(own, both, i) for i in range(6)], rel=1e-5)
    assert confidences(seen, own, both).tolist() == pytest.approx(chances, rel=1e-5)
    assert scale(seen, own, both).tolist() == pytest.approx([math.log(p / (1 - p)) for p in chances], rel=1e-4)


def test_a_logit_grows_on_where_the_confidence_rounds_to_one() -> None:
    """Of large scores the logit is the score of the own label less the largest other one."""
    seen, both = observed(), batch(6, 1)
    own = {name: tensor * 1e3 for name, tensor in weights(3).items()}
    scores = both.inputs.double() @ own["weight"].double().T + own["bias"].double()
    for i, found in enumerate(scale(seen, own, both).tolist()):
        label = int(both.labels[i])
        others = max(float(s) for k, s in enumerate(scores[i]) if k != label)
        assert found == pytest.approx(float(scores[i, label]) - others, rel=1e-4)
    assert set(confidences(seen, own, both).round(decimals=9).tolist()) <= {0.0, 1.0}
