"""A LightningModule with its DataModule."""

from typing import Any

import torch
from digits import digits
from lightning import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader


class Digits(LightningDataModule):
    """Handwritten digits."""

    def train_dataloader(self) -> DataLoader:
        """Return batches of images and labels."""
        return DataLoader(digits(), batch_size=16)


class Perceptron(LightningModule):
    """Two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, images: Tensor) -> Tensor:
        """Return scores, shape (B, 10)."""
        return self.layers(images)

    def training_step(self, batch: Any, _number: int) -> Tensor:
        """Return the loss of a batch."""
        images, labels = batch
        loss = nn.functional.cross_entropy(self(images), labels)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=0.001)


def make_client() -> tuple[LightningModule, LightningDataModule]:
    """Return module and data."""
    return Perceptron(), Digits()
