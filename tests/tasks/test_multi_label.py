"""Images and their sets of labels from the update of a client that learns sets."""

import pytest
import torch

from fedsim.core.types import Batch, Config, Dataset, InputSpec
from fedsim.data.digit_traits import traits_of
from fedsim.tasks.core.fitting import usual_task
from fedsim.tasks.multi_label import MultiLabel
from tests.tasks.targets import Build, attacked, scored, victim

TRAITS = {"data": {"name": "digit-traits"}}


@pytest.mark.parametrize(("attack", "batch_size"), [("closed-form-linear", 1), ("span-intersection", 4)])
def test_images_and_sets_come_back(scenario: Build, attack: str, batch_size: int) -> None:
    one = victim(scenario, batch_size, **TRAITS)
    record = scored(one, attacked(one, attack))
    assert [item.values["psnr"] > 100 for item in record.scores] == [True] * batch_size
    assert [item.values["set_read"] for item in record.scores] == [1.0] * batch_size
    assert record.scores[0].values["set_f1_guessed"] < 1.0
    assert record.scores[0].label is None


def test_answers_are_right_label_by_label() -> None:
    task, labels = MultiLabel(Config()), torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert task.right(torch.tensor([[2.0, 2.0], [3.0, 1.0]]), labels, None).tolist() == [0.5, 1.0]  # type: ignore[arg-type]
    assert task.losses(torch.zeros(2, 2), labels).tolist() == pytest.approx([0.6931, 0.6931], abs=1e-4)  # ln 2
    assert task.refuses_labels(torch.tensor([[0.5, 0.0]]), None) == "a label is neither 0 nor 1"  # type: ignore[arg-type]


def test_the_usual_answer_is_what_most_have(samples: dict) -> None:
    data, task = samples["multi-label"], MultiLabel(Config())
    usual = task.usual_answer(data)
    share = data.train.labels.mean(0)
    assert torch.equal(usual[0] > 0, share > 0.5)
    right = task.right(usual.expand(20, 3), data.train.labels, data)
    assert float(right.mean()) == pytest.approx(float(torch.maximum(share, 1 - share).mean()))


def test_traits_are_those_of_the_number() -> None:
    assert traits_of(torch.tensor([0, 2, 9])).tolist() == [[1, 0, 1, 0, 1], [1, 1, 0, 0, 0], [0, 0, 1, 1, 1]]


@pytest.mark.parametrize("shape", [(20, 5), (20, 2, 6), (20, 1, 4, 4)])
def test_rows_windows_and_images_may_have_sets(samples: dict, shape: tuple[int, ...]) -> None:
    data, task = samples["multi-label"], MultiLabel(Config())
    batch = Batch(torch.randn(shape, generator=torch.Generator().manual_seed(0)), data.train.labels)
    spec = InputSpec(shape[1:], 3, (0.0,) * shape[1], (1.0,) * shape[1])
    assert task.refuses(Dataset(batch, batch, spec, ())) is None
    assert usual_task(Dataset(batch, batch, spec, ())) == "multi-label"
