"""Labels that are classes: their cross-entropy by hand, and what is right of a test set."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fedsim.core.types import Config, Dataset
from fedsim.tasks.classification import Classification
from fedsim.tasks.core.classes import class_answers, token_answers
from fedsim.tasks.tagging import Tagging
from tests.tasks.conftest import Says

CLASSES, TAGS = Classification(Config()), Tagging(Config())


def cross_entropy(scores: Tensor, label: int) -> float:
    return float(scores.double().logsumexp(-1) - scores.double()[label])


def test_losses_are_those_of_each_own_label_and_of_tokens_their_mean() -> None:
    scores = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 3, 3, 1])
    expected = [cross_entropy(score, int(label)) for score, label in zip(scores, labels, strict=True)]
    assert CLASSES.losses(scores, labels).tolist() == pytest.approx(expected, rel=1e-5)
    assert float(CLASSES.loss(scores, labels)) == pytest.approx(sum(expected) / 4, rel=1e-5)
    tokens, tags = scores.view(2, 2, 5), torch.tensor([[0, 3], [3, -100]])
    found = TAGS.losses(tokens, tags).tolist()
    assert found == pytest.approx([sum(expected[:2]) / 2, expected[2]], rel=1e-5)


def test_labels_out_of_range_are_named_but_not_those_left_out(samples: dict[str, Dataset]) -> None:
    spec = samples["tagging"].spec
    assert TAGS.refuses_labels(torch.tensor([[0, 4], [-100, 1]]), spec) is None
    assert TAGS.refuses_labels(torch.tensor([[0, 5]]), spec) == "label 5 is out of range, expected 0 to 4"
    assert TAGS.output_shape(torch.zeros(2, 3), spec) == (2, 3, 5)


def test_answers_count_what_is_right_without_what_is_left_out(samples: dict[str, Dataset], says: Says) -> None:
    data = samples["classification"]
    wrong = torch.where(torch.arange(20) < 5, (data.test.labels + 1) % 4, data.test.labels)
    assert class_answers(CLASSES, says(F.one_hot(wrong, 4).float()), data)["test_accuracy"] == 0.75
    tagged = samples["tagging"]
    guessed = tagged.test.labels.clamp_min(0)
    answers = token_answers(TAGS, says(F.one_hot(guessed, 5).float()), tagged)
    assert answers.accuracy == 1.0
    assert torch.equal(answers.guesses, guessed)
