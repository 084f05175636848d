"""One class for every text: what fits, and what is scored and shown."""

from dataclasses import replace

import torch
import torch.nn.functional as F

from fedsim.core.types import Batch, Config, Dataset
from fedsim.tasks.text_classification import TextClassification
from tests.tasks.conftest import Says

TASK = TextClassification(Config())


def test_texts_with_one_class_each_fit_and_nothing_else(samples: dict[str, Dataset]) -> None:
    assert TASK.refuses(samples["text-classification"]) is None
    assert "it reads tokens" in (TASK.refuses(samples["classification"]) or "")
    assert "a label for every example" in (TASK.refuses(samples["tagging"]) or "")


def test_labels_are_no_part_of_the_text_and_the_loss_is_that_of_the_classes(samples: dict[str, Dataset]) -> None:
    assert not TASK.labels_are_inputs
    outputs, labels = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 4
    assert torch.equal(TASK.losses(outputs, labels), F.cross_entropy(outputs, labels, reduction="none"))


def test_accuracy_is_that_of_the_test_texts(samples: dict[str, Dataset], says: Says) -> None:
    data = samples["text-classification"]
    four = replace(data, test=Batch(data.test.inputs[:4], torch.tensor([0, 1, 2, 3])))
    scores = F.one_hot(torch.tensor([0, 1, 2, 0]), 4).float()
    assert TASK.evaluate(says(scores), four, torch.Generator())["test_accuracy"] == 0.75
