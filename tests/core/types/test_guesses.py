"""A guess: made of its inputs, and told in a line."""

from pathlib import Path

import pytest
import torch

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
    assert (guess.masks, guess.iterations, guess.diagnostics, guess.extras, guess.notes) == (None, 0, {}, {}, ())


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
        IMAGES, torch.tensor([3, 4]), objective=2.5e-8, iterations=9, best_iteration=7, stop_reason="s"
    )
    assert repr(guess) == (
        "Reconstruction(2 examples of 1 x 2 x 2, labels [3, 4], objective 2.5e-08 at iteration 7 of 9: s)"
    )
    assert "labels [0, 0, 0, 0, 0, 0, 0, 0, ...]" in repr(Reconstruction.of(torch.zeros(9, 2)))
    assert "1 example of 2," in repr(Reconstruction.of(torch.zeros(1, 2)))


def test_a_guess_without_examples_is_told_shown_and_saved(tmp_path: Path) -> None:
    nothing = Reconstruction.of(torch.zeros(0, 1, 2, 2), stop_reason="gave up: why", objective=float("inf"))
    assert repr(nothing).startswith("Reconstruction(0 examples of 1 x 2 x 2, labels [], objective inf")
    figure = nothing.show()
    assert not isinstance(figure, str)
    assert figure.axes == []
    assert sorted(path.name for path in nothing.save(tmp_path / "guess").iterdir()) == ["guess.json", "inputs.npy"]
