"""Model and data; knows nothing of Flower."""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn


def make_model() -> nn.Module:
    """Return a linear classifier of digits of 8 x 8 pixels."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def digits(first: int, step: int = 1) -> tuple[Tensor, Tensor]:
    """Return every so many images, shape (N, 1, 8, 8), in [0, 1], and their labels."""
    known = load_digits()
    images = torch.tensor(known.images / 16.0, dtype=torch.float32)[:, None]
    return images[first::step], torch.tensor(known.target)[first::step]
