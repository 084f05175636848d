"""Clients with a loss on two views of each picture; fedsim is imported only to declare the views."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from outputs import digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fedsim.audit import Subject

TEMPERATURE = 0.5


def two_views() -> tuple[Tensor, Tensor]:
    """Return two views of 400 pictures: randomly darkened, and randomly darkened with a shift by a pixel."""
    pictures, _ = digits()
    source = torch.Generator().manual_seed(1)
    light = 0.6 + 0.4 * torch.rand(2, len(pictures), 1, 1, 1, generator=source)
    return light[0] * pictures, light[1] * pictures.roll(1, 3)


def client(loss: Callable[[Tensor, Tensor], Tensor], dropout: float) -> Subject:
    """Return an encoder of two dense layers, with dropout between them."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Dropout(dropout), nn.Linear(128, 16))
    return Subject(encoder, loss, DataLoader(TensorDataset(*two_views()), batch_size=32), views="halves")


def alignment(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean cosine distance of the embeddings of a picture's two views."""
    return (1.0 - F.cosine_similarity(first, second)).mean()


def info_nce(first: Tensor, second: Tensor) -> Tensor:
    """Return the cross-entropy of the partner among all other views; 0 of a single pair."""
    directions = F.normalize(torch.cat([first, second]))
    itself = torch.eye(len(directions), dtype=torch.bool)
    cosines = (directions @ directions.T).masked_fill(itself, -torch.inf)
    return F.cross_entropy(cosines / TEMPERATURE, torch.arange(len(directions)).roll(len(first)))


def make_views() -> Subject:
    """Return a client that brings two views of a picture together."""
    return client(alignment, dropout=0.0)


def make_contrast() -> Subject:
    """Return a client that also keeps different pictures apart, with dropout."""
    return client(info_nce, dropout=0.5)
