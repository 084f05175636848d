"""Images and the labels of several heads from the update of a client that learns them at once."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from fedsim.core.types import InputSpec, LabelHead
from fedsim.tasks.multi_head import MultiHead, MultiHeadConfig
from tests.tasks.targets import Build, attacked, scored, victim

HEADS = {"data": {"name": "digit-heads"}}


@pytest.mark.parametrize(("attack", "batch_size"), [("closed-form-linear", 1), ("span-intersection", 4)])
def test_images_and_the_labels_of_each_head_come_back(scenario: Build, attack: str, batch_size: int) -> None:
    one = victim(scenario, batch_size, **HEADS)
    record = scored(one, attacked(one, attack))
    assert [item.values["psnr"] > 100 for item in record.scores] == [True] * batch_size
    assert [item.values["heads_read"] for item in record.scores] == [1.0] * batch_size
    assert record.scores[0].values["heads_guessed"] < 0.8


def test_the_loss_is_the_weighted_sum_of_the_heads(samples: dict) -> None:
    data = samples["multi-head"]
    task = MultiHead(MultiHeadConfig(weights={"how much": 0.5})).fit_to_data(data)
    outputs, labels = torch.randn(20, 7, generator=torch.Generator().manual_seed(0)), data.train.labels
    expected = (
        F.cross_entropy(outputs[:, :3], labels[:, 0].long())
        + F.binary_cross_entropy_with_logits(outputs[:, 3:5], labels[:, 1:3])
        + 0.5 * F.mse_loss(outputs[:, 5:], labels[:, 3:])
    )
    torch.testing.assert_close(task.loss(outputs, labels), expected)


def test_a_label_of_each_kind_is_answered_right_or_wrong(samples: dict) -> None:
    data = samples["multi-head"]
    task, labels = MultiHead(MultiHeadConfig()).fit_to_data(data), data.train.labels
    usual = task.usual_answer(data).expand(20, 7)
    shares = task.right(usual, labels, data)
    most = labels[:, 0].mode().values
    std = labels.std(0, correction=0)
    near = (labels[:, 3:] - labels[:, 3:].mean(0)).abs() <= 0.5 * std[3:]
    of_sets = (labels[:, 1:3] == labels[:, 1:3].mode(0).values).double().mean(1)
    expected = ((labels[:, 0] == most).double() + of_sets + near.double().mean(1)) / 3
    torch.testing.assert_close(shares, expected)
    each = torch.cat([(labels[:, :1] == most), labels[:, 1:3] == labels[:, 1:3].mode(0).values, near], 1)
    answer = task.usual_answer(data)
    figures = task.evaluate(lambda inputs: answer.expand(len(inputs), 7), data, torch.Generator())
    assert figures == {"test_accuracy": pytest.approx(float(each.double().mean()))}


def test_labels_and_weights_that_no_head_has_are_refused(samples: dict) -> None:
    data = samples["multi-head"]
    task = MultiHead(MultiHeadConfig(weights={"how many": 2.0}))
    assert task.refuses(data) == "weights name 'how many', and the heads are which, what, how much"
    task = MultiHead(MultiHeadConfig())
    spec = replace(data.spec, heads=(*data.spec.heads, LabelHead("more", "class", (), 2)))
    assert (
        task.refuses(replace(data, spec=spec)) == "its heads have 6 labels and 9 outputs, and labels have shape (20, 5)"
    )
    labels = data.train.labels.clone()
    labels[3, 0] = 3.0
    assert task.refuses_labels(labels, data.spec) == "label 3 of head 'which' is none of 0 to 2"
    labels[3, 0], labels[4, 4] = 0.0, torch.inf
    assert task.refuses_labels(labels, data.spec) == "a label of head 'how much' is not finite"
    spec = InputSpec((1, 4, 4), 3, (0.0,), (1.0,))
    assert task.refuses(replace(data, spec=spec)) == "it needs images or rows of a data set with several heads"


def test_a_map_of_classes_may_be_a_head(samples: dict) -> None:
    spec = replace(samples["multi-head"].spec, classes=8, heads=(LabelHead("where", "mask", (2, 2), 8),))
    data = replace(samples["multi-head"], spec=spec)
    task = MultiHead(MultiHeadConfig()).fit_to_data(data)
    labels, outputs = torch.tensor([[0.0, 1.0, 1.0, 0.0]]), torch.tensor([[0.0, 1, 1, 3, 1, 2, 0, 1]])
    whole = replace(data, train=replace(data.train, labels=labels.repeat(20, 1)))
    assert task.right(outputs, labels, whole).tolist() == [0.5]  # it answers 1, 1, 0, 0
    expected = F.cross_entropy(outputs.view(1, 2, 2, 2), labels.view(1, 2, 2).long())
    torch.testing.assert_close(task.loss(outputs, labels), expected)
