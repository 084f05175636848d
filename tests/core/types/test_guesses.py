"""A guess: made of its inputs, told in a line, shown and saved."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fedsim.core.errors import FedsimError
from fedsim.core.types import Reconstruction

IMAGES = torch.tensor([[[[0.0, 1.0], [-1.0, 3.0]]], [[[1.0, 1.0], [0.0, 0.0]]]])


def test_a_guess_needs_no_more_than_its_inputs() -> None:
    inputs = torch.zeros(3, 1, 2, 2, requires_grad=True)
    guess = Reconstruction.of(inputs)
    assert not guess.inputs.requires_grad
    assert guess.labels.tolist() == [0, 0, 0]
    assert guess.objective != guess.objective
    assert guess.history == ()
    assert (guess.masks, guess.iterations, guess.facts, guess.found, guess.notes) == (None, 0, {}, {}, ())


def test_labels_are_copied_and_counted() -> None:
    labels = torch.tensor([1, 2])
    guess = Reconstruction.of(IMAGES, labels, iterations=7, objective=0.5)
    labels[0] = 9
    assert guess.labels.tolist() == [1, 2]
    assert (guess.best_iteration, guess.history) == (7, ((7, 0.5),))
    with pytest.raises(FedsimError, match="the guess has 3 labels for 2 examples"):
        Reconstruction.of(IMAGES, torch.zeros(3))


@pytest.mark.parametrize("points", [1, 200, 201, 1000])
def test_a_long_history_is_thinned_and_begins_where_it_began(points: int) -> None:
    history = Reconstruction.of(IMAGES, history=[(n, 1.0 / n) for n in range(1, points + 1)]).history
    assert history[0] == (1, 1.0)
    assert 100 < len(history) <= 200 or len(history) == points


def test_it_is_told_in_a_line() -> None:
    guess = Reconstruction.of(
        IMAGES, torch.tensor([3, 4]), objective=2.5e-8, iterations=9, best_iteration=7, stopped="s"
    )
    assert repr(guess) == (
        "Reconstruction(2 examples of 1 x 2 x 2, labels [3, 4], objective 2.5e-08 at iteration 7 of 9: s)"
    )
    assert "labels [0, 0, 0, 0, 0, 0, 0, 0, ...]" in repr(Reconstruction.of(torch.zeros(9, 2)))
    assert "1 example of 2," in repr(Reconstruction.of(torch.zeros(1, 2)))


def test_a_guess_without_examples_is_told_shown_and_saved(tmp_path: Path) -> None:
    nothing = Reconstruction.of(torch.zeros(0, 1, 2, 2), stopped="gave up: why", objective=float("inf"))
    assert repr(nothing).startswith("Reconstruction(0 examples of 1 x 2 x 2, labels [], objective inf")
    figure = nothing.show()
    assert not isinstance(figure, str)
    assert figure.axes == []
    assert sorted(path.name for path in nothing.save(tmp_path / "guess").iterdir()) == ["guess.json", "inputs.npy"]


def test_images_are_a_figure_with_pixels_and_labels() -> None:
    figure = Reconstruction.of(IMAGES, torch.tensor([3, 4])).show(mean=(0.5,), std=(0.5,))
    assert not isinstance(figure, str)
    first, second = figure.axes
    assert (first.get_title(), second.get_title()) == ("3", "4")
    assert first.images[0].get_array().tolist() == [[0.5, 1.0], [0.0, 1.0]]
    with pytest.raises(FedsimError, match="std has 2 values, expected one for each of 1 channels"):
        Reconstruction.of(IMAGES).show(std=(1.0, 1.0))


class Letters:
    def decode(self, tokens: list[int]) -> str:
        return "".join(chr(ord("a") + token) for token in tokens)


def test_tokens_are_lines_of_text_and_other_numbers_too() -> None:
    guess = Reconstruction.of(torch.tensor([[1, 0, 3], [2, -1, -1]]))
    assert guess.show() == "1 0 3\n2"
    assert guess.show(tokenizer=Letters()) == "bad\nc"  # type: ignore[arg-type]
    assert Reconstruction.of(torch.tensor([[0.5, 2.0]])).show() == "0.5 2"


def test_images_are_saved_as_pictures_numbers_and_facts(tmp_path: Path) -> None:
    guess = Reconstruction.of(IMAGES, torch.tensor([3, 4]), stopped="s", facts={"rank": 1.0})
    assert guess.save(tmp_path / "new" / "guess") == tmp_path / "new" / "guess"
    assert sorted(path.name for path in (tmp_path / "new" / "guess").iterdir()) == [
        "guess.json", "image-0.png", "image-1.png", "inputs.npy",
    ]  # fmt: skip
    told = json.loads((tmp_path / "new" / "guess" / "guess.json").read_text())
    assert (told["labels"], told["stopped"], told["facts"], told["is_exact"]) == ([3, 4], "s", {"rank": 1.0}, False)
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
