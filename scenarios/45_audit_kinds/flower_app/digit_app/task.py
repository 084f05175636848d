"""Model, data and training; knows nothing of Flower."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def make_model() -> nn.Module:
    """Return a perceptron for digits of 8 x 8 pixels."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def partition(number: int, count: int, examples: int) -> TensorDataset:
    """Return the first examples of a client's share of the digits."""
    digits = load_digits()
    images = torch.tensor(digits.images / 16.0, dtype=torch.float32)[:, None]
    labels = torch.tensor(digits.target)
    return TensorDataset(images[number::count][:examples], labels[number::count][:examples])


def train(model: nn.Module, data: TensorDataset, batch_size: int, learning_rate: float) -> float:
    """Train for an epoch, and return the loss of the last batch."""
    optimizer, loss = torch.optim.SGD(model.parameters(), lr=learning_rate), torch.zeros(())
    for images, labels in DataLoader(data, batch_size=batch_size):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
    return loss.item()
