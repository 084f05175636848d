"""Classification, against torch's own cross-entropy and counting by hand."""

import torch
import torch.nn.functional as F

from fedsim.core.types import Config, Dataset
from fedsim.tasks.classification import Classification
from fedsim.tasks.text_classification import TextClassification

TASK = Classification(Config())


def test_losses_are_those_of_torch() -> None:
    outputs, labels = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 4
    assert torch.equal(TASK.losses(outputs, labels), F.cross_entropy(outputs, labels, reduction="none"))
    assert torch.equal(TASK.loss(outputs, labels), F.cross_entropy(outputs, labels))
    assert isinstance(TASK.losses(outputs[:, None], labels), torch.Tensor)
    several = torch.stack((outputs, outputs.flip(0)), 1)
    by_hand = torch.stack([F.cross_entropy(several[:, a], labels, reduction="none") for a in range(2)]).mean(0)
    torch.testing.assert_close(TASK.losses(several, labels), by_hand)


def test_what_is_tested_is_counted_and_the_accuracy_comes_first(samples: dict[str, Dataset], says) -> None:
    for task, name in ((TASK, "classification"), (TextClassification(Config()), "text-classification")):
        labels = samples[name].test.labels
        scores = F.one_hot(labels, 4).float()
        scores[:5] = scores[:5].roll(1, 1)  # five of twenty are wrong
        figures = task.evaluate(says(scores), samples[name], torch.Generator())
        assert list(figures) == ["test_accuracy", "test_loss"]
        assert figures["test_accuracy"] == 15 / 20
        assert figures["test_loss"] == F.cross_entropy(scores, labels).item()


def test_labels_must_be_classes(samples: dict[str, Dataset]) -> None:
    spec = samples["classification"].spec
    assert TASK.refuses_labels(torch.tensor([0, 3]), spec) is None
    assert TASK.refuses_labels(torch.tensor([0, 4]), spec) == "label 4 is out of range, expected 0 to 3"
    assert TASK.refuses_labels(torch.tensor([-100, 0]), spec) == "label -100 is out of range, expected 0 to 3"
