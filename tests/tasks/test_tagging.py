"""Tagging, against spans counted by hand."""

from dataclasses import replace

import torch
import torch.nn.functional as F

from fedsim.core.types import Batch, Config, Dataset
from fedsim.tasks.tagging import Tagging

TASK = Tagging(Config())


def test_spans_come_first_and_are_counted_whole(samples: dict[str, Dataset], says) -> None:
    o, b, i, loc, _ = range(5)
    labels = torch.tensor([[b, i, o], [loc, o, -100], [o, b, i]])  # three spans
    guesses = torch.tensor([[b, i, o], [loc, o, i], [o, b, o]])  # two of them right, one too short
    batch = Batch(torch.zeros_like(labels), labels)
    data = replace(samples["tagging"], test=batch)
    scores = F.one_hot(guesses, 5).float()
    figures = TASK.evaluate(says(scores), data, torch.Generator())
    assert list(figures) == ["test_span_f1", "test_accuracy", "test_loss"]
    assert figures["test_span_f1"] == 2 * 2 / (3 + 3)
    assert figures["test_accuracy"] == 7 / 8
    by_hand = torch.stack([F.cross_entropy(score, label) for score, label in zip(scores, labels, strict=True)]).mean()
    torch.testing.assert_close(figures["test_loss"], by_hand.item(), rtol=1e-6, atol=0)  # float32, other order


def test_tags_that_mark_no_spans_have_no_f1(samples: dict[str, Dataset], says) -> None:
    data = replace(samples["tagging"], class_names=("a", "b", "c", "d", "e"))
    assert list(TASK.evaluate(says(torch.zeros(20, 3, 5)), data, torch.Generator())) == ["test_accuracy", "test_loss"]
