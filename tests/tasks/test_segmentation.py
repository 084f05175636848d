"""Images and their masks from the update of a client that learns a class for every pixel."""

import pytest
import torch
import torch.nn.functional as F

from fedsim.core.types import Batch, Config, Dataset, InputSpec
from fedsim.tasks.segmentation import Segmentation
from tests.tasks.targets import Build, attacked, scored, victim

MASKS = {"data": {"name": "digit-masks"}, "model": {"name": "mask-mlp"}}


@pytest.mark.parametrize(("attack", "batch_size"), [("closed-form-linear", 1), ("span-intersection", 3)])
def test_images_and_masks_come_back(scenario: Build, attack: str, batch_size: int) -> None:
    one = victim(scenario, batch_size, **MASKS)
    record = scored(one, attacked(one, attack))
    assert [item.values["psnr"] > 100 for item in record.scores] == [True] * batch_size
    assert [item.values["mask_iou"] for item in record.scores] == [1.0] * batch_size
    assert record.scores[0].values["mask_iou_guessed"] < 0.9


def masks(labels: torch.Tensor) -> Dataset:
    batch = Batch(torch.zeros(len(labels), 1, 2, 2), labels)
    return Dataset(batch, batch, InputSpec((1, 2, 2), 2, (0.0,), (1.0,)), ("a", "b"))


def test_pixels_that_do_not_count_are_left_out() -> None:
    task, labels = Segmentation(Config()), torch.tensor([[[0, -100], [1, -100]]])
    sure = torch.tensor([[[[9.0, 9.0], [-9.0, 9.0]], [[-9.0, -9.0], [9.0, -9.0]]]])
    assert task.right(sure, labels, masks(labels)).tolist() == [1.0]
    assert float(task.losses(sure, labels)) < 1e-6  # e^-18
    assert task.evaluate(lambda _inputs: sure, masks(labels), torch.Generator()) == {"test_accuracy": 1.0}


@pytest.mark.parametrize("flags", [False, True])
def test_the_usual_mask_has_the_most_frequent_class_of_every_pixel(flags: bool) -> None:
    labels = torch.tensor([[[0, 1], [1, 0]], [[0, 1], [0, 0]], [[1, 1], [0, 0]]])
    data = masks(labels[:, None].float() if flags else labels)
    task = Segmentation(Config())
    usual = task.usual_answer(data)
    answers = (usual[0, 0] > 0).long() if flags else usual.argmax(1)[0]
    assert answers.tolist() == [[0, 1], [0, 0]]
    assert task.right(usual.expand(3, -1, -1, -1), data.train.labels, data).tolist() == [0.75, 1.0, 0.75]


def test_a_strange_class_is_named() -> None:
    spec = masks(torch.zeros(1, 2, 2, dtype=torch.long)).spec
    task = Segmentation(Config())
    assert task.refuses_labels(torch.tensor([[[0, 5], [1, -100]]]), spec) == "label 5 is out of range, expected 0 to 1"
    assert task.refuses_labels(torch.tensor([[[0, 1], [1, -100]]]), spec) is None


def test_masks_must_have_the_size_of_their_images() -> None:
    why = Segmentation(Config()).refuses(masks(torch.zeros(1, 3, 3, dtype=torch.long)))
    assert why is not None
    assert why.startswith("it needs a class for every pixel, (B, H, W), or masks of 0 and 1")


VOLUMES = InputSpec((1, 2, 4, 4), 3, (0.0,), (1.0,))


@pytest.mark.parametrize("are_maps", [True, False])
def test_a_volume_has_a_class_or_a_set_at_every_place(are_maps: bool) -> None:
    source = torch.Generator().manual_seed(0)
    shape = (6, 2, 4, 4) if are_maps else (6, 3, 2, 4, 4)
    labels = torch.randint(3 if are_maps else 2, shape, generator=source)
    batch = Batch(torch.rand(6, 1, 2, 4, 4, generator=source), labels if are_maps else labels.float())
    data, task = Dataset(batch, batch, VOLUMES, ()), Segmentation(Config())
    assert task.refuses(data) is None
    assert task.refuses_labels(batch.labels, VOLUMES) is None
    assert task.output_shape(batch.labels, VOLUMES) == (6, 3, 2, 4, 4)
    usual = task.usual_answer(data)
    assert usual.shape == (1, 3, 2, 4, 4)
    right = task.right(usual.expand(6, 3, 2, 4, 4), batch.labels, data)
    most = batch.labels.mode(0).values if are_maps else (batch.labels.mean(0) > 0.5).float()
    torch.testing.assert_close(right, (batch.labels == most).double().flatten(1).mean(1), check_dtype=False)
    outputs = torch.randn(6, 3, 2, 4, 4, generator=source)
    loss = F.cross_entropy if are_maps else F.binary_cross_entropy_with_logits
    torch.testing.assert_close(task.loss(outputs, batch.labels), loss(outputs, batch.labels))
