"""Trainings that take minutes, once: they are watched step by step, and one that was killed goes on where it was."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple, Protocol

import torch

from fedsim.core import checkpoints
from fedsim.core.errors import FedsimError, in_a_line
from fedsim.record.files import explain

_EVERY = 25  # steps between two saved states


class TrainingStep(NamedTuple):
    """A step of a training that has ended.

    Attributes:
        stage: what is trained, for people.
        number: from 1 on.
        of: steps of the stage.
        loss: of the step.
        note: what else there is to say.
    """

    stage: str
    number: int
    of: int
    loss: float
    note: str = ""


OnStep = Callable[[TrainingStep], None]


def unwatched(_step: TrainingStep) -> None:
    """Tell nobody."""


class Stateful(Protocol):
    """A part of a training, whose state can be read and put back."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Put a state back."""
        ...


def steps_left(states: Path, stage: str, steps: int, generator: torch.Generator, **parts: Stateful) -> Iterator[int]:
    """Yield the number of each step of a stage that is left, from 0 on, and save the state behind some and the last.

    Args:
        states: beginning of the names of the files that hold states.
        stage: its name is the end.
        steps: of the whole stage.
        generator: source of all randomness of the steps.
        parts: whatever else the steps change.

    Raises:
        FedsimError: the file of an earlier state holds none of this training, or a state cannot be written.
    """
    path, start = states.with_name(f"{states.name}.{stage}.state"), 0
    if path.is_file():
        start = _go_on(path, generator, parts)
    for step in range(start, steps):
        yield step
        if (step + 1) % _EVERY == 0 or step + 1 == steps:
            state = {name: part.state_dict() for name, part in parts.items()}
            _save({**state, "generator": generator.get_state(), "step": step + 1}, path)


def _save(state: dict[str, Any], path: Path) -> None:
    content = io.BytesIO()
    torch.save(state, content)
    new = path.with_suffix(f".{os.getpid()}")  # of this process alone: another one may train the same
    with explain(path):
        new.write_bytes(content.getbuffer())
        new.replace(path)


def _go_on(path: Path, generator: torch.Generator, parts: dict[str, Stateful]) -> int:
    """Put everything into the state that a file holds, and return how many steps are behind it."""
    try:
        saved = torch.load(path, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        generator.set_state(saved["generator"])
        return int(saved["step"])
    except (OSError, RuntimeError, UnpicklingError, KeyError, ValueError, TypeError, EOFError) as error:
        raise FedsimError(
            f"{path} is no state of this training: {in_a_line(error)}. Delete it, and the training begins anew."
        ) from error


def train_once(name: str, minutes: float, train: Callable[[Path], None], write: Callable[[Path], None]) -> Path:
    """Return a folder of the cache; a model is trained and written when it is not there.

    While it is trained, no folder but files of its states lie in the cache: a call behind a kill goes on from them.

    Args:
        name: of the folder.
        minutes: of a core that training takes, which standard error is told of before it begins.
        train: trains, with states in files whose names begin as it is told.
        write: writes what was trained into an empty folder, whose files get checksums.

    Raises:
        FedsimError: the cache cannot be written.
    """
    final = checkpoints.cache() / name
    if final.is_dir():
        return final
    with checkpoints.making(final, f"about {minutes:g} min of a core, and goes on where it was if it is interrupted"):
        train(final)
        with checkpoints.whole(final) as folder:
            write(folder)
            checkpoints.seal(folder)
    for state in final.parent.glob(f"{name}.*"):
        if state.is_file():
            state.unlink()
    return final
