"""Tensors by name in files that somebody else wrote; nothing in a file is run."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedsim.core.errors import FedsimError, in_a_line


def read_npz(path: Path) -> dict[str, Tensor]:
    """Return the arrays of an ``.npz`` file, in whichever byte order they lie there.

    Raises:
        FedsimError: there is no such file, or it holds something else.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: _tensor_of(stored[name]) for name in stored.files}
    except Exception as error:
        raise FedsimError(f"cannot read tensors from {path}: {in_a_line(error).rstrip('.')}.") from error


def _tensor_of(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))


def read_saved(path: Path) -> Any:
    """Return what `torch.save` wrote, if that is made of tensors, numbers and words.

    Raises:
        FedsimError: there is no such file, or it holds something else.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of torch, about pickles that it then refuses
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own words advise to run the file
        raise FedsimError(
            f"{path} is no file of weights, or holds more than tensors, which could run code, so it was not opened. "
            "Write it with torch.save(model.state_dict(), path)."
        ) from error
    except Exception as error:
        raise FedsimError(f"{path} cannot be read: {in_a_line(error).rstrip('.')}.") from error
