"""A label stays as often as its epsilon says, and what is read exactly is the drawn one."""

import math

import pytest
import torch

from defenses.vertical.label_dp import LabelDp, LabelDpConfig, kept_share
from fedsim.metrics.statistics import wilson
from fedsim.questions.vertical.observe import labels_view
from tests.attacks.vertical.label_seats import EVERYTHING, guessed
from tests.questions.vertical.splitting import split_federation


def relabelled(labels: torch.Tensor, classes: int, epsilon: float) -> torch.Tensor:
    return LabelDp(LabelDpConfig(epsilon=epsilon)).relabel(labels, classes, torch.Generator().manual_seed(0))


def test_two_classes_at_epsilon_one_stay_in_0_731() -> None:
    assert kept_share(1.0, 2) == pytest.approx(0.7311, abs=1e-4)


@pytest.mark.parametrize(("classes", "epsilon"), [(2, 1.0), (10, 2.0)])
def test_a_label_stays_with_its_probability_and_the_others_are_equally_likely(classes: int, epsilon: float) -> None:
    labels = torch.zeros(20000, dtype=torch.long)
    shares = relabelled(labels, classes, epsilon).bincount(minlength=classes) / 20000
    stays = math.exp(epsilon) / (math.exp(epsilon) + classes - 1)
    assert abs(float(shares[0]) - stays) < 4 * 0.5 / 20000**0.5  # four deviations of a coin
    assert float((shares[1:] - (1 - stays) / (classes - 1)).abs().max()) < 4 * 0.5 / 20000**0.5


def test_an_exact_attack_reads_the_labels_that_were_trained_on_and_of_the_true_ones_the_kept_share() -> None:
    federation = split_federation(count=1000)
    run = federation.run(relabel=lambda labels: relabelled(labels, 2, 1.0))
    view = labels_view(federation, run, "a", 1, EVERYTHING, (900, 1))
    read = guessed("cut-line", view)
    assert torch.equal(read, run.labels[view.rows])
    share = wilson(int((read == federation.train.labels[view.rows]).sum()), 900, 0.99)
    assert share.low is not None
    assert share.high is not None
    assert share.low < kept_share(1.0, 2) < share.high
