"""Loading of named tensors from third-party files, without running code from them."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedsim.core.errors import FedsimError, first_line

_PICKLED = "it holds Python objects, which could run code, so they were not opened"


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an ``.npz`` file by name; pickled objects are not opened.

    Raises:
        FedsimError: the file is missing, cut off, not a regular file, or holds something other than arrays.
    """
    if path.exists() and not path.is_file():
        raise FedsimError(f"cannot read arrays from {path}: it is no regular file.")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds for a file that is not whole
        why = _PICKLED if "allow_pickle" in str(error) else first_line(error).rstrip(".")
        sentence = f"cannot read arrays from {path}: {why}. Expected an .npz file as numpy.savez writes it."
        raise FedsimError(sentence) from error


def read_npz(path: Path) -> dict[str, Tensor]:
    """Return the arrays of an ``.npz`` file as tensors, in the byte order of this machine.

    Raises:
        FedsimError: see `read_arrays`, or an array holds no numbers.
    """
    arrays = read_arrays(path)
    try:
        return {name: _tensor_of(array) for name, array in arrays.items()}
    except TypeError as error:
        raise FedsimError(f"cannot read tensors from {path}: {first_line(error).rstrip('.')}.") from error


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
        raise FedsimError(f"{path} cannot be read: {first_line(error).rstrip('.')}.") from error
