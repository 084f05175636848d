"""Factories as users write them, good and bad. Nothing here knows fedsim, except where a subject is returned."""

import os
import signal
import sys
import time
import warnings

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


def images(count: int = 40, shape: tuple[int, ...] = (1, 8, 8), classes: int = 4) -> TensorDataset:
    """Return smooth random images in [0, 1]."""
    generator = torch.Generator().manual_seed(5)
    coarse = torch.rand(count, shape[0], 4, 4, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=shape[1:], mode="bilinear")
    return TensorDataset(smooth, torch.randint(classes, (count,), generator=generator))


def loader(count: int = 40, **settings: object) -> DataLoader:
    return DataLoader(images(count, **settings), batch_size=7)  # type: ignore[arg-type]


def perceptron(classes: int = 4) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Dropout(0.25), nn.Linear(24, classes))


def make() -> tuple[nn.Module, nn.Module, DataLoader]:
    return perceptron(), nn.CrossEntropyLoss(), loader()


def raises() -> None:
    raise ZeroDivisionError("somebody divided by nothing")


def prints() -> tuple[nn.Module, nn.Module, DataLoader]:
    print('{"done": ""}')  # what the child process says itself, if it were to listen to it
    return make()


def eats_memory() -> None:
    torch.zeros(1 << 38)


def returns_nothing() -> None:
    return None


def returns_no_module() -> tuple[object, nn.Module, DataLoader]:
    return object(), nn.CrossEntropyLoss(), loader()


class Broken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        raise IndexError("no such layer")


def fails_forward() -> tuple[nn.Module, nn.Module, DataLoader]:
    return Broken(), nn.CrossEntropyLoss(), loader()


class Slow(Broken):
    def forward(self, inputs: Tensor) -> Tensor:
        time.sleep(600)
        return inputs


def hangs_forward() -> tuple[nn.Module, nn.Module, DataLoader]:
    return Slow(), nn.CrossEntropyLoss(), loader()


def normalised_over_batches() -> tuple[nn.Module, nn.Module, DataLoader]:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12), nn.Linear(12, 4))
    return model, nn.CrossEntropyLoss(), loader()


def lazy() -> tuple[nn.Module, nn.Module, DataLoader]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(4)), nn.CrossEntropyLoss(), loader()


def parallel() -> tuple[nn.Module, nn.Module, DataLoader]:
    return nn.DataParallel(perceptron()), nn.CrossEntropyLoss(), loader()


def of_opacus() -> tuple[nn.Module, nn.Module, DataLoader]:
    from opacus import GradSampleModule

    return GradSampleModule(perceptron()), nn.CrossEntropyLoss(), loader()


def in_place() -> tuple[nn.Module, nn.Module, DataLoader]:
    return nn.Sequential(nn.ReLU(inplace=True), perceptron()), nn.CrossEntropyLoss(), loader()


def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def exits() -> None:
    sys.exit(3)


NO_FUNCTION = 3


def of_width(width, *_others, depth=1, **_more):
    return make()
