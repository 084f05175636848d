"""What travels between an attack's process and the scorer's comes back as it was, and is no code."""

import os
from dataclasses import replace
from typing import Any

import pytest
import torch

from fedsim.core.errors import FedsimError
from fedsim.core.types import Batch, Reconstruction, Step
from fedsim.threat.attacking import frames


def guess(**fields: Any) -> Reconstruction:
    made = Reconstruction(torch.rand(2, 1, 3, 3), torch.tensor([1, 2]), None, 0.5, 3, 2, ((1, 0.5),), "done")
    return replace(made, **fields)


def test_a_guess_comes_back_as_it_was() -> None:
    whole = guess(
        masks=(torch.ones(2, 4),),
        notes=("one", "two"),
        facts={"rank": 2.0},
        trained=Batch(torch.rand(2, 1, 3, 3), torch.rand(2, 5)),
        found={"part.what": torch.arange(3)},
        is_exact=True,
    )
    (back,) = frames.read_guesses(frames.of_found([whole]))
    assert torch.equal(back.inputs, whole.inputs)
    assert back.trained is not None
    assert whole.trained is not None
    assert torch.equal(back.trained.labels, whole.trained.labels)
    assert torch.equal(back.found["part.what"], whole.found["part.what"])
    plain = ("objective", "iterations", "best_iteration", "history", "stopped", "notes", "facts", "is_exact")
    assert all(getattr(back, name) == getattr(whole, name) for name in plain)


def test_what_an_attack_sends_is_no_code() -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, ("true",)

    with pytest.raises(Exception, match=r"(?i)weights_only|unsupported"):
        frames.read_guesses(frames.saved([{"inputs": Evil()}]))
    with pytest.raises(FedsimError, match="holds a Evil"):
        frames.of_found([guess(found={"x": Evil()})])


def test_a_step_comes_back_as_it_was() -> None:
    for images in (torch.rand(2, 1, 3, 3), torch.arange(6).reshape(2, 3), torch.empty(0, 3)):
        step = Step(1, 20, 30, 0.25, float("inf"), images)
        back = frames.step_of(frames.of_step(step))
        assert (back.restart, back.iteration, back.iterations, back.objective, back.best) == (
            1,
            20,
            30,
            0.25,
            float("inf"),
        )
        assert torch.equal(back.guess, images)
        assert back.guess.dtype == images.dtype
