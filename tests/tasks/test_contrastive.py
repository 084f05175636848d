"""The loss of two views written out, and which embeddings are right."""

import math

import pytest
import torch

from fedsim.tasks.contrastive import Contrastive, ContrastiveConfig

LABELS = torch.tensor([0.0, 1.0, 0.0, 1.0])
ANGLES = torch.tensor([0.0, 2.0, 0.3, 2.5])
EMBEDDINGS = 3.0 * torch.stack([ANGLES.cos(), ANGLES.sin()], 1)


def test_the_loss_is_the_one_written_out() -> None:
    task = Contrastive(ContrastiveConfig(temperature=0.2))
    expected = []
    for i, partner in enumerate((2, 3, 0, 1)):
        terms = {k: math.exp(math.cos(float(ANGLES[i] - ANGLES[k])) / 0.2) for k in range(4) if k != i}
        expected.append(-math.log(terms[partner] / sum(terms.values())))
    assert task.losses(EMBEDDINGS, LABELS).tolist() == pytest.approx(expected, rel=1e-4)  # single precision


def test_a_view_is_right_whose_nearest_other_is_its_partner(samples: dict) -> None:
    task, data = Contrastive(ContrastiveConfig()), samples["contrastive"]
    assert task.right(EMBEDDINGS, LABELS, data).tolist() == [1.0] * 4
    assert task.right(EMBEDDINGS, LABELS.sort().values, data).tolist() == [0.0] * 4
    usual = task.usual_answer(data).expand(20, 3)
    assert float(task.right(usual, data.train.labels, data).mean()) == 0.1  # all are alike, so the first is nearest


def test_data_that_do_not_say_that_they_are_pairs_are_refused(samples: dict) -> None:
    task = Contrastive(ContrastiveConfig())
    assert "fedsim.audit.Subject(views=...)" in str(task.refuses(samples["regression"]))
    data = samples["contrastive"]
    halved = type(data)(data.train.select(torch.arange(3)), data.test, data.spec, (), task="contrastive")
    assert task.refuses(halved) == "each label is the number of a pair, which two views have"
