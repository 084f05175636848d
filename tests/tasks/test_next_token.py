"""Next tokens, against torch's cross-entropy sentence by sentence."""

import torch
import torch.nn.functional as F

from fedsim.core.types import Config, Dataset
from fedsim.tasks.next_token import NextToken

TASK = NextToken(Config())


def test_a_sentence_weighs_as_much_as_a_longer_one() -> None:
    outputs = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, 2, 3], [4, -100, -100]])
    by_hand = torch.stack([F.cross_entropy(output, label) for output, label in zip(outputs, labels, strict=True)])
    torch.testing.assert_close(TASK.losses(outputs, labels), by_hand)
    torch.testing.assert_close(TASK.loss(outputs, labels), by_hand.mean())


def test_what_is_tested_leaves_out_what_has_no_label(samples: dict[str, Dataset], says) -> None:
    labels = samples["next-token"].test.labels
    scores = torch.randn(20, 3, 7, generator=torch.Generator().manual_seed(1))
    figures = TASK.evaluate(says(scores), samples["next-token"], torch.Generator())
    counted = labels != -100
    assert list(figures) == ["test_accuracy", "test_loss"]
    assert figures["test_accuracy"] == (scores.argmax(-1) == labels)[counted].double().mean()
    by_hand = torch.stack([F.cross_entropy(score, label) for score, label in zip(scores, labels, strict=True)]).mean()
    torch.testing.assert_close(figures["test_loss"], by_hand.item(), rtol=1e-6, atol=0)  # float32, other order


def test_labels_may_be_left_out_and_are_tokens(samples: dict[str, Dataset]) -> None:
    spec = samples["next-token"].spec
    assert TASK.refuses_labels(torch.tensor([[0, -100, 6]]), spec) is None
    assert TASK.refuses_labels(torch.tensor([[0, -100, 7]]), spec) == "label 7 is out of range, expected 0 to 6"
    assert TASK.refuses(samples["tagging"]) == "it needs tokens as labels, 7 of them, and the data have 5 classes"
