"""Clients that learn something else than one class; none of them imports fedsim."""

import math

import torch
from sklearn.datasets import load_diabetes, load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

Client = tuple[nn.Module, nn.Module, DataLoader]


def dense(inputs: int, outputs: int) -> nn.Sequential:
    """Return two dense layers."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, outputs))


def loader(inputs: Tensor, labels: Tensor) -> DataLoader:
    """Return batches of pairs."""
    return DataLoader(TensorDataset(inputs, labels), batch_size=32)


def digits() -> tuple[Tensor, Tensor]:
    """Return 400 pictures (1, 8, 8) in [0, 1], and their numbers."""
    known = load_digits()
    return torch.tensor(known.images[:400] / 16.0, dtype=torch.float32)[:, None], torch.tensor(known.target[:400])


def make_regression() -> Client:
    """Return a client that foretells how far a patient's diabetes gets, with Huber's loss."""
    rows, progress = load_diabetes(return_X_y=True)
    inputs, targets = torch.tensor(20 * rows).float(), torch.tensor(progress / 100).float()[:, None]
    return dense(10, 1), nn.HuberLoss(delta=4.0), loader(inputs, targets)


def make_multi_label() -> Client:
    """Return a client that says whether a digit is even, is prime, and is above four."""
    pictures, numbers = digits()
    is_prime = torch.isin(numbers, torch.tensor([2, 3, 5, 7]))
    traits = torch.stack([numbers % 2 == 0, is_prime, numbers > 4], 1)  # noqa: PLR2004 - above four
    return dense(64, 3), nn.BCEWithLogitsLoss(), loader(pictures, traits.float())


def make_segmentation() -> Client:
    """Return a client that says for every pixel whether it is ink."""
    pictures, _ = digits()
    model = nn.Sequential(dense(64, 128), nn.Unflatten(1, (2, 8, 8)))
    return model, nn.CrossEntropyLoss(), loader(pictures, (pictures[:, 0] > 0.5).long())  # noqa: PLR2004 - half black


def make_series() -> Client:
    """Return a client that foretells two steps from 24 of two variables."""
    times = torch.arange(26) * 2 * math.pi / 12
    phases = torch.rand(400, 2, generator=torch.Generator().manual_seed(1)) * 2 * math.pi
    values = (times[None, :, None] + phases[:, None]).sin()
    return dense(48, 2), nn.MSELoss(), loader(values[:, :24], values[:, 24:, 0])
