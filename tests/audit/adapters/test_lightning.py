"""A LightningModule is audited as it is, with the loss of its training_step."""

import os
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fedsim.audit.loading import made
from fedsim.audit.subject import checked
from fedsim.core.errors import FedsimError
from tests.audit.adapters.recovering import share

if "CI" not in os.environ:  # there all of the dev extra is installed
    pytest.importorskip("lightning")
from lightning import LightningDataModule, LightningModule


def pictures(count: int = 24) -> TensorDataset:
    source = torch.Generator().manual_seed(5)
    images = F.interpolate(torch.rand(count, 1, 4, 4, generator=source), size=(8, 8), mode="bilinear")
    return TensorDataset(images, torch.randint(4, (count,), generator=source))


class Pictures(LightningDataModule):
    def setup(self, stage: str) -> None:
        self.stage = stage

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(pictures(), batch_size=6)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(pictures(8), batch_size=6)


class Classifier(LightningModule):
    """As tutorials write one: forward, a step that logs, an optimizer in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 4))

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def training_step(self, batch: Any, number: int) -> Any:
        images, labels = batch
        loss = F.cross_entropy(self(images), labels, weight=torch.tensor([1.0, 2.0, 3.0, 4.0]))
        self.log("loss", loss)
        return {"loss": loss}

    def configure_optimizers(self) -> Any:
        return {"optimizer": torch.optim.AdamW(self.parameters(), lr=0.02)}


class Inner(Classifier):
    """Calls a part of itself, with a loss and a figure that are modules, and has no forward."""

    forward = None  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.criterion = nn.CrossEntropyLoss()

    def training_step(self, batch: Any, number: int) -> Any:
        images, labels = batch
        return self.criterion(self.net(images), labels)


@pytest.mark.parametrize(
    ("make", "line", "loss"),
    [
        (
            Classifier,
            "Classifier of Lightning, 4 tensors are",
            lambda s, y: F.cross_entropy(s, y, torch.arange(1.0, 5)),
        ),
        (Inner, "Inner of Lightning, 4 tensors of its Sequential are", F.cross_entropy),
    ],
)
def test_the_loss_is_that_of_the_step_and_data_and_optimizer_are_its(make: Any, line: str, loss: Any) -> None:
    subject = made((make(), Pictures()), "train:make")
    assert subject.notes == (f"Understood: {line} sent after one step; loss: that of training_step.",)
    assert (subject.optimizer, subject.learning_rate) == ("adam", 0.02)
    sound = checked(subject, "train:make")
    assert (len(sound.dataset.train), len(sound.dataset.test), sound.dataset.spec.classes) == (24, 8, 4)
    batch = sound.dataset.train.taken(torch.arange(3))
    scores = sound.model(batch.inputs)
    assert torch.equal(sound.loss(scores, batch.labels), loss(scores, batch.labels))


@pytest.mark.parametrize("make", [Classifier, Inner])
def test_one_example_comes_back_through_a_dense_layer(make: Any) -> None:
    assert share(made((make(), Pictures()), "train:make")) == 1.0


def test_a_loader_of_mappings_does_in_place_of_a_data_module() -> None:
    class Mapped(Classifier):
        def training_step(self, batch: Any, number: int) -> Any:
            return F.cross_entropy(self(batch["image"]), batch["label"])

    rows = [{"image": image, "label": label} for image, label in pictures()]
    subject = made((Mapped(), DataLoader(rows, batch_size=6)), "train:make")  # type: ignore[arg-type]
    assert share(subject) == 1.0


class TwoCalls(Classifier):
    def training_step(self, batch: Any, number: int) -> Any:
        images, labels = batch
        return F.cross_entropy(self.net[3](self.net[2](self.net[1](images.flatten(1)))), labels)


class WithTrainer(Classifier):
    def training_step(self, batch: Any, number: int) -> Any:
        return super().training_step(batch, number)["loss"] * self.trainer.current_epoch


class OfInputs(Classifier):
    def training_step(self, batch: Any, number: int) -> Any:
        return F.cross_entropy(self(batch[0]), batch[1]) + batch[0].sum()


class Silent(Classifier):
    def training_step(self, batch: Any, number: int) -> Any:
        self(batch[0])


class ByHand(Classifier):
    automatic_optimization = False


class WithoutSetup(LightningDataModule):
    def train_dataloader(self) -> Any:
        return self.pictures


TRIPLES = DataLoader(TensorDataset(*pictures().tensors, torch.zeros(24)), batch_size=6)


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (Classifier, r"gives Classifier, expected a LightningModule and its data. Return \(module, datamodule\)"),
        (Pictures, "gives Pictures, expected a LightningModule and its data"),
        (lambda: (ByHand(), Pictures()), "optimises by hand .automatic_optimization = False."),
        (lambda: (TwoCalls(), Pictures()), "calls net.1 and net.3 one after the other, expected one call that gives"),
        (lambda: (WithTrainer(), Pictures()), "training_step of 'train:make' fails without a Trainer: RuntimeError"),
        (lambda: (Silent(), Pictures()), "fails without a Trainer: TypeError: it returns NoneType, expected a loss"),
        (lambda: (OfInputs(), Pictures()), "it depends on more. Return .model, loss, loader., with the loss as"),
        (lambda: (Classifier(), WithoutSetup()), "the DataModule of 'train:make' failed: AttributeError"),
        (lambda: (Classifier(), TRIPLES), r"batches of 'train:make' are 3 parts, expected \(inputs, labels\)"),
    ],
)
def test_a_mistake_is_one_sentence(thing: Any, message: str) -> None:
    with pytest.raises(FedsimError, match=message) as raised:
        made(thing(), "train:make")
    assert "\n" not in str(raised.value)


def test_an_optimizer_that_needs_a_trainer_is_noted() -> None:
    class Scheduled(Classifier):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=1.0 / self.trainer.max_epochs)

    subject = made((Scheduled(), Pictures()), "train:make")
    assert subject.notes[1] == "configure_optimizers gave no optimizer without a Trainer, so SGD at 0.1 trains."
