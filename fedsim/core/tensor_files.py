"""Loading of named tensors from third-party files, without running code from them."""

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
    """Return the arrays of an ``.npz`` file, in any byte order.

    Raises:
        FedsimError: the file is missing or invalid.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: _tensor_of(stored[name]) for name in stored.files}
    except Exception as error:
        raise FedsimError(f"cannot read tensors from {path}: {in_a_line(error).rstrip('.')}.") from error


def _tensor_of(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))


def read_saved(path: Path) -> Any:
    """Return an object saved by `torch.save`, if it consists of tensors, numbers and strings.

    Raises:
        FedsimError: the file is missing or contains other objects.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # torch warns about pickles before it refuses them
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own message advises to run the file
        raise FedsimError(
            f"{path} is no file of weights, or holds more than tensors, which could run code, so it was not opened. "
            "Write it with torch.save(model.state_dict(), path)."
        ) from error
    except Exception as error:
        raise FedsimError(f"{path} cannot be read: {in_a_line(error).rstrip('.')}.") from error
