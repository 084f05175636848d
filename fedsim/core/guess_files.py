"""Display of guesses: figures of images, text of tokens, and files of both."""

from __future__ import annotations

import io
import json
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fedsim.core.errors import FedsimError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_IMAGE, _GREY, _COLOUR = 4, 1, 3
_COLUMNS = 8
_INCH = 1.4  # inches per image

Decode = Callable[[list[int]], str]  # maps token ids to text


def are_images(inputs: Tensor) -> bool:
    """Return whether guessed examples are grey or colour images, shape (B, C, H, W)."""
    return inputs.dim() == _IMAGE and inputs.shape[1] in (_GREY, _COLOUR)


def figure(inputs: Tensor, labels: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None) -> Figure:
    """Return a matplotlib Figure of images (B, C, H, W) with their labels; it needs no display.

    Raises:
        FedsimError: the number of means or standard deviations differs from the number of channels.
    """
    from matplotlib.figure import Figure as New  # noqa: PLC0415 - takes half a second, needed for figures only

    shown = pixels(inputs, mean, std)
    columns = max(1, min(_COLUMNS, len(shown)))
    rows = max(1, math.ceil(len(shown) / columns))
    drawing = New(figsize=(_INCH * columns, (_INCH + 0.3) * rows), layout="constrained")
    for place, picture in enumerate(shown):
        axes = drawing.add_subplot(rows, columns, place + 1)
        axes.imshow(_flat(picture), cmap="gray", vmin=0, vmax=1)
        axes.set_title(str(labels[place].tolist()), fontsize=8)
        axes.set_axis_off()
    return drawing


def pixels(inputs: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None) -> np.ndarray:
    """Return images (B, C, H, W) with pixels in [0, 1], shape (B, H, W, C).

    Raises:
        FedsimError: the number of means or standard deviations differs from the number of channels.
    """
    channels = inputs.shape[1]
    shift, scale = torch.tensor(mean or (0.0,) * channels), torch.tensor(std or (1.0,) * channels)
    for name, values in (("mean", shift), ("std", scale)):
        if len(values) != channels:
            raise FedsimError(f"{name} has {len(values)} values, expected a value for each of {channels} channels.")
    images = inputs.cpu().float() * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)
    return images.clamp(0, 1).permute(0, 2, 3, 1).numpy()


def text(inputs: Tensor, decode: Decode | None) -> str:
    """Return a line per example: decoded text, or numbers for floats or without `decode`."""
    return "\n".join(_line(example, decode) for example in inputs.cpu())


def save(
    folder: Path,
    inputs: Tensor,
    labels: Tensor,
    figures: Mapping[str, Any],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> None:
    """Write a guess: `guess.json`, `inputs.npy`, and a PNG per image or `text.txt`.

    Args:
        folder: created if missing.
        inputs: shape (N, *shape).
        labels: shape (N,).
        figures: values by name, for `guess.json`; NaN is omitted.
        mean: as in `pixels`.
        std: as in `pixels`.

    Raises:
        FedsimError: the folder contains such a file already, or cannot be written.
    """
    numbers = {name: value for name, value in figures.items() if not _is_no_number(value)}
    description = json.dumps({"labels": labels.tolist(), **numbers}, indent=1)
    files = {"guess.json": description.encode(), "inputs.npy": _npy(inputs)}
    if are_images(inputs):
        names = (f"image-{number}.png" for number in range(len(inputs)))
        files |= dict(zip(names, map(_png, pixels(inputs, mean, std)), strict=True))
    else:
        files["text.txt"] = text(inputs, None).encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = next((name for name in files if (folder / name).exists()), None)
        if taken is not None:
            raise FedsimError(f"{folder} holds '{taken}' already. Choose another folder.")
        for name, content in files.items():
            _write_whole(folder / name, content)
    except OSError as error:
        raise FedsimError(f"cannot write to {folder}: {error.strerror}. Choose another folder.") from error


def _line(example: Tensor, decode: Decode | None) -> str:
    if example.is_floating_point():
        return " ".join(f"{value:.4g}" for value in example.flatten().tolist())
    tokens = [token for token in example.flatten().tolist() if token >= 0]
    return decode(tokens) if decode is not None else " ".join(map(str, tokens))


def _is_no_number(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _npy(tensor: Tensor) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, tensor.cpu().numpy(), allow_pickle=False)
    return buffer.getvalue()


def _png(picture: np.ndarray) -> bytes:
    from PIL import Image  # noqa: PLC0415 - needed for images only

    buffer = io.BytesIO()
    Image.fromarray((255 * _flat(picture)).round().astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _flat(picture: np.ndarray) -> np.ndarray:
    """Return an image (H, W, C) in the layout of plotting libraries: grey images without channel dimension."""
    return picture[..., 0] if picture.shape[-1] == _GREY else picture


def _write_whole(path: Path, content: bytes) -> None:
    temporary = path.parent / f".fedsim-{secrets.token_hex(8)}"
    try:
        temporary.write_bytes(content)  # permissions follow the umask, unlike permissions of Python's temporary files
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
