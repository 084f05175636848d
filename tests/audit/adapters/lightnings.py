"""Modules of Lightning. The package takes seconds to load, so tests load this file when they run."""

from typing import Any

import torch
import torch.nn.functional as F
from lightning import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


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


class Mapped(Classifier):
    def training_step(self, batch: Any, number: int) -> Any:
        return F.cross_entropy(self(batch["image"]), batch["label"])


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


class Scheduled(Classifier):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1.0 / self.trainer.max_epochs)


TRIPLES = DataLoader(TensorDataset(*pictures().tensors, torch.zeros(24)), batch_size=6)
