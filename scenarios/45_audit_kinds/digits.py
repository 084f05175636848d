"""Handwritten digits of 8 x 8 pixels, for every example of this folder."""

import torch
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset


def digits(examples: int = 400) -> TensorDataset:
    """Return images in [0, 1], shape (1, 8, 8), and their labels."""
    known = load_digits()
    images = torch.tensor(known.images[:examples] / 16.0, dtype=torch.float32)[:, None]
    return TensorDataset(images, torch.tensor(known.target[:examples]))
