"""A LightningModule is audited as it is, with the loss of its training_step."""

import importlib
import os
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from fedsim.audit.loading import load_subject
from fedsim.audit.subject import check_subject
from fedsim.core.errors import FedsimError
from tests.audit.adapters.recovering import share


@pytest.fixture(scope="module")
def lightnings() -> ModuleType:
    """The modules of Lightning; loading the package takes seconds, which no other file of tests should wait for."""
    if "CI" not in os.environ:  # there all of the dev extra is installed
        pytest.importorskip("lightning")
    return importlib.import_module("tests.audit.adapters.lightnings")


@pytest.mark.parametrize(
    ("make", "line", "loss"),
    [
        (
            "Classifier",
            "Classifier of Lightning, 4 tensors are",
            lambda s, y: F.cross_entropy(s, y, torch.arange(1.0, 5)),
        ),
        ("Inner", "Inner of Lightning, 4 tensors of its Sequential are", F.cross_entropy),
    ],
)
def test_the_loss_is_that_of_the_step_and_data_and_optimizer_are_its(
    lightnings: ModuleType, make: str, line: str, loss: Any
) -> None:
    subject = load_subject((getattr(lightnings, make)(), lightnings.Pictures()), "train:make")
    assert subject.notes == (f"Understood: {line} sent after a single step; loss: from training_step.",)
    assert (subject.optimizer, subject.learning_rate) == ("adam", 0.02)
    sound = check_subject(subject, "train:make")
    assert (len(sound.dataset.train), len(sound.dataset.test), sound.dataset.spec.classes) == (24, 8, 4)
    batch = sound.dataset.train.select(torch.arange(3))
    scores = sound.model(batch.inputs)
    assert torch.equal(sound.loss(scores, batch.labels), loss(scores, batch.labels))


@pytest.mark.parametrize("make", ["Classifier", "Inner"])
def test_one_example_comes_back_through_a_dense_layer(lightnings: ModuleType, make: str) -> None:
    assert share(load_subject((getattr(lightnings, make)(), lightnings.Pictures()), "train:make")) == 1.0


def test_a_loader_of_mappings_does_in_place_of_a_data_module(lightnings: ModuleType) -> None:
    rows = [{"image": image, "label": label} for image, label in lightnings.pictures()]
    subject = load_subject((lightnings.Mapped(), DataLoader(rows, batch_size=6)), "train:make")  # type: ignore[arg-type]
    assert share(subject) == 1.0


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (lambda own: own.Classifier(), r"gives Classifier, expected a LightningModule and its data. Return \(module"),
        (lambda own: (own.Classifier(), None), "gives NoneType as its data, expected a DataModule or a loader. Return"),
        (lambda own: (own.Classifier(), []), "the loader of 'train:make' yields no batch. Give it the client's data"),
        (lambda own: (own.Classifier().requires_grad_(False), own.Pictures()), "every parameter of 'train:make' is"),
        (lambda own: (own.Classifier, own.Pictures), r"returned 2 values, expected a tuple \(model, loss, loader\)"),
        (lambda own: (own.ByHand(), own.Pictures()), "optimises by hand .automatic_optimization = False."),
        (lambda own: (own.TwoCalls(), own.Pictures()), "calls net.1 and net.3 in sequence, expected a single call"),
        (lambda own: (own.WithTrainer(), own.Pictures()), "training_step of 'train:make' fails without a Trainer"),
        (lambda own: (own.Silent(), own.Pictures()), "fails without a Trainer: TypeError: it returns NoneType"),
        (lambda own: (own.OfInputs(), own.Pictures()), "it depends on more. Return .model, loss, loader., with the"),
        (lambda own: (own.Classifier(), own.WithoutSetup()), "the DataModule of 'train:make' failed: AttributeError"),
        (lambda own: (own.Classifier(), own.TRIPLES), r"batches of 'train:make' are 3 parts, expected \(inputs"),
    ],
)
def test_a_mistake_is_one_sentence_and_at_most_a_wrapper(lightnings: ModuleType, thing: Any, message: str) -> None:
    with pytest.raises(FedsimError, match=message) as raised:
        load_subject(lambda: thing(lightnings), "train:make")
    _, *wrapper = str(raised.value).splitlines()
    assert not wrapper or wrapper[0].lstrip().startswith("def ")


def test_an_optimizer_that_needs_a_trainer_is_noted(lightnings: ModuleType) -> None:
    subject = load_subject((lightnings.Scheduled(), lightnings.Pictures()), "train:make")
    assert subject.notes[1] == "configure_optimizers gave no optimizer without a Trainer, so SGD at 0.1 trains."
