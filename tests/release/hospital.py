"""A hospital's model of small pictures with random labels: what is learned of them is learned by heart."""

from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fedsim.audit import Subject
from fedsim.release.record import ReleasePlan

_STEPS = 200
_N = 120
TARGET = f"{__name__}:client"


def pictures(seed: int, n: int = _N) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 1, 4, 4, generator=generator), torch.randint(2, (n,), generator=generator)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 128), nn.ReLU(), nn.Linear(128, 2))


@cache
def trained_on(seed: int, first: int = 0, last: int = _N) -> nn.Module:
    """Return a network that knows some pictures by heart."""
    model, (inputs, labels) = network(), (part[first:last] for part in pictures(seed))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(_STEPS):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    return model


def loader(seed: int, first: int = 0, last: int = _N) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(*(part[first:last] for part in pictures(seed))), batch_size=30)


def client() -> tuple[object, ...]:
    return network(), nn.functional.cross_entropy, loader(1)


def others() -> object:
    return loader(2)


def few() -> object:
    return loader(2, 0, 19)


def number() -> object:
    return 3


def mixed() -> object:
    """Return others, three of whom are members."""
    both = [torch.cat([a[:3], b]) for a, b in zip(pictures(1), pictures(2), strict=True)]
    return DataLoader(TensorDataset(*both), batch_size=30)


def first_site() -> tuple[object, ...]:
    return trained_on(1, 0, 60), nn.functional.cross_entropy, loader(1, 0, 60)


def second_site() -> tuple[object, ...]:
    return trained_on(1, 60), nn.functional.cross_entropy, iter(loader(1, 60))  # reads but once


def same_site() -> tuple[object, ...]:
    return trained_on(1, 0, 60), nn.functional.cross_entropy, loader(1, 60)


def no_loader() -> Subject:
    return Subject(network(), shape=(1, 4, 4))


def saved(folder: Path, seed: int) -> Path:
    """Return a file of the weights of `trained_on`."""
    path = folder / f"on-{seed}.pt"
    torch.save(trained_on(seed).state_dict(), path)
    return path


def plan(weights: Path, **more: object) -> ReleasePlan:
    return ReleasePlan.model_validate(
        {"target": TARGET, "weights": weights, "non_members": f"{__name__}:others", "command": "fedsim release", **more}
    )
