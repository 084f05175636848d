"""What holds for every task."""

import pickle
from typing import Any

import pytest
import torch

from fedsim.core import registry
from fedsim.core.hooks import IMAGES, IMAGES_AND_TEXT, Task
from fedsim.core.types import Batch, Dataset

NAMES = sorted(registry.methods("task"))


def made(name: str) -> Task[Any]:
    method = registry.get("task", name)
    return method.make(method.config()).with_name(name)


def kind_of_data(name: str, samples: dict[str, Dataset]) -> str:
    """The data of a task: its own, or the first that it takes where no data is for it unless a scenario says so."""
    fitting = (kind for kind, data in samples.items() if made(name).refuses(data) is None)
    return name if name in samples else next(fitting)


@pytest.mark.parametrize("name", NAMES)
def test_a_task_fits_its_own_kind_of_data_alone(name: str, samples: dict[str, Dataset]) -> None:
    own = kind_of_data(name, samples)
    assert made(name).refuses(samples[own]) is None
    refused = {other: made(name).refuses(samples[other]) for other in samples if other != own}
    # The sentences have a class each, all the same: whoever names the task may classify them. Who draws images looks at
    # no labels. Numbers of pairs are numbers.
    accepted = {other for other, why in refused.items() if why is None}
    assert accepted == ({"sentence-embedding"} if name == "text-classification" else
                        {"next-token"} if name == "tagging" else
                        {"contrastive"} if name == "regression" else
                        {"graph-classification"} if name == "tabular" else  # a window has the shape of a graph
                        {"segmentation"} if name in {"denoising", "next-patch"} else set())  # fmt: skip
    assert all(why is None or not why.endswith(".") for why in refused.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_task_travels_to_another_process(name: str) -> None:
    again = pickle.loads(pickle.dumps(made(name)))
    assert (type(again), again.name, again.config) == (type(made(name)), name, made(name).config)


@pytest.mark.parametrize("name", [name for name in NAMES if made(name).has_labels])
def test_the_mean_loss_is_that_of_the_examples(name: str, samples: dict[str, Dataset]) -> None:
    data = samples[kind_of_data(name, samples)]
    task, batch = made(name).fit_to_data(data), data.train
    shape = task.output_shape(batch.labels, data.spec)
    assert shape is not None
    outputs = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    targets = task.targets(batch, task.draw(batch, torch.Generator().manual_seed(0)))
    each = task.losses(outputs, targets)
    assert each.shape == (len(batch),)
    torch.testing.assert_close(task.loss(outputs, targets), each.mean())  # the same sum in another order


@pytest.mark.parametrize("name", NAMES)
def test_what_a_task_draws_has_an_entry_for_each_example(name: str, samples: dict[str, Dataset]) -> None:
    batch = samples[kind_of_data(name, samples)].train
    drawn, again = (made(name).draw(batch, torch.Generator().manual_seed(0)) for _ in range(2))
    assert made(name).draws == bool(drawn)
    assert all(len(own) == len(batch) and torch.equal(own, again[key]) for key, own in drawn.items())


def test_a_task_hands_the_model_what_is_given() -> None:
    batch = Batch(torch.ones(2, 1), torch.zeros(2), {"question": torch.tensor([[1.0], [2.0]])})
    outputs = made("classification").outputs(lambda inputs, question: inputs + question, batch, {})
    assert outputs.tolist() == [[2.0], [3.0]]


def test_what_works_on_other_examples_does_not_suit_a_task() -> None:
    assert made("tagging").does_not_suit(IMAGES) == "works on images, and the examples are text"
    said = "works on text, and the examples are images, rows or series"
    assert made("tabular").does_not_suit(frozenset({"text"})) == said
    assert made("classification").does_not_suit(IMAGES) is None
    assert made("tagging").does_not_suit(IMAGES_AND_TEXT) is None


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_called_what_metrics_call_it(name: str) -> None:
    assert made(name).noun in {metric.noun for metric in registry.every_metric().values() if metric.over == "item"}


def test_what_needs_classes_does_not_suit_other_labels() -> None:
    searching, reading = registry.get("attack", "inverting-gradients"), registry.get("attack", "r-gap")
    assert made("regression").refuses_method(searching.make(searching.config())) is None
    assert made("regression").refuses_method(reading.make(reading.config())) == (
        "works with labels that are classes, and these are numbers"
    )
    assert made("classification").refuses_method(reading.make(reading.config())) is None
    noise = registry.get("defense", "gradient-noise")
    assert made("segmentation").refuses_method(noise.make(noise.config())) is None  # it sees tensors of the model alone
