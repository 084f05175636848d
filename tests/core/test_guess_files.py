"""Guesses as figures, lines of text, and files."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fedsim.core.errors import FedsimError
from fedsim.core.types import Reconstruction

IMAGES = torch.tensor([[[[0.0, 1.0], [-1.0, 3.0]]], [[[1.0, 1.0], [0.0, 0.0]]]])


class Letters:
    def decode(self, tokens: list[int]) -> str:
        return "".join(chr(ord("a") + token) for token in tokens)


def test_images_are_a_figure_with_pixels_and_labels() -> None:
    figure = Reconstruction.of(IMAGES, torch.tensor([3, 4])).show(mean=(0.5,), std=(0.5,))
    assert not isinstance(figure, str)
    first, second = figure.axes
    assert (first.get_title(), second.get_title()) == ("3", "4")
    assert first.images[0].get_array().tolist() == [[0.5, 1.0], [0.0, 1.0]]
    with pytest.raises(FedsimError, match="std has 2 values, expected a value for each of 1 channels"):
        Reconstruction.of(IMAGES).show(std=(1.0, 1.0))


def test_tokens_are_lines_of_text_and_other_numbers_too() -> None:
    guess = Reconstruction.of(torch.tensor([[1, 0, 3], [2, -1, -1]]))
    assert guess.show() == "1 0 3\n2"
    assert guess.show(tokenizer=Letters()) == "bad\nc"  # type: ignore[arg-type]
    assert Reconstruction.of(torch.tensor([[0.5, 2.0]])).show() == "0.5 2"


def test_images_are_saved_as_pictures_numbers_and_facts(tmp_path: Path) -> None:
    guess = Reconstruction.of(IMAGES, torch.tensor([3, 4]), stop_reason="s", diagnostics={"rank": 1.0})
    assert guess.save(tmp_path / "new" / "guess") == tmp_path / "new" / "guess"
    assert sorted(path.name for path in (tmp_path / "new" / "guess").iterdir()) == [
        "guess.json", "image-0.png", "image-1.png", "inputs.npy",
    ]  # fmt: skip
    told = json.loads((tmp_path / "new" / "guess" / "guess.json").read_text())
    assert (told["labels"], told["stop_reason"], told["diagnostics"], told["is_exact"]) == (
        [3, 4],
        "s",
        {"rank": 1.0},
        False,
    )
    assert "objective" not in told
    assert np.array_equal(np.load(tmp_path / "new" / "guess" / "inputs.npy"), IMAGES.numpy())
    with Image.open(tmp_path / "new" / "guess" / "image-0.png") as picture:
        assert np.asarray(picture).tolist() == [[0, 255], [0, 255]]
    with pytest.raises(FedsimError, match="holds 'guess.json' already"):
        guess.save(tmp_path / "new" / "guess")


def test_colours_and_text_are_saved_too(tmp_path: Path) -> None:
    Reconstruction.of(torch.rand(1, 3, 4, 5)).save(tmp_path / "colour")
    with Image.open(tmp_path / "colour" / "image-0.png") as picture:
        assert (picture.mode, picture.size) == ("RGB", (5, 4))
    Reconstruction.of(torch.tensor([[1, 2]])).save(tmp_path / "text")
    assert (tmp_path / "text" / "text.txt").read_text() == "1 2"
    (tmp_path / "file").touch()
    with pytest.raises(FedsimError, match="cannot write to"):
        Reconstruction.of(torch.tensor([[1, 2]])).save(tmp_path / "file" / "below")


def test_files_are_readable_by_whom_the_umask_lets(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        Reconstruction.of(IMAGES).save(tmp_path / "guess")
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "guess").iterdir()}
    assert modes == {0o644}
