"""Resumable trainings with a step callback and cached results."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple, Protocol

import torch

from fedsim.core.errors import FedsimError, first_line
from fedsim.core.nets import checkpoints
from fedsim.record.atomic_files import io_advice

_EVERY = 25  # steps between saved states


class TrainingStep(NamedTuple):
    """A finished training step.

    Attributes:
        stage: name of the training stage, for display.
        number: from 1.
        of: number of steps of the stage.
        loss: loss of the step.
        note: further information.
    """

    stage: str
    number: int
    of: int
    loss: float
    note: str = ""


OnStep = Callable[[TrainingStep], None]


def ignore_step(_step: TrainingStep) -> None:
    """Do nothing."""


class Stateful(Protocol):
    """Part of a training with a state that can be saved and restored."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Restore a state."""
        ...


def steps_left(states: Path, stage: str, steps: int, generator: torch.Generator, **parts: Stateful) -> Iterator[int]:
    """Yield the index of each remaining step of a stage, from 0; save the state periodically and after the last step.

    Args:
        states: path prefix of the state files.
        stage: name of the stage, the suffix of the file name.
        steps: number of steps of the stage.
        generator: random source of the steps.
        parts: all other objects that the steps change.

    Raises:
        FedsimError: the state file does not belong to this training, or a state cannot be written.
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
    new = path.with_suffix(f".{os.getpid()}")  # per process, because another process may train the same model
    with io_advice(path):
        new.write_bytes(content.getbuffer())
        new.replace(path)


def _go_on(path: Path, generator: torch.Generator, parts: dict[str, Stateful]) -> int:
    """Restore all parts from a state file, and return the number of finished steps."""
    try:
        saved = torch.load(path, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        generator.set_state(saved["generator"])
        return int(saved["step"])
    except (OSError, RuntimeError, UnpicklingError, KeyError, ValueError, TypeError, EOFError) as error:
        raise FedsimError(
            f"{path} is no state of this training: {first_line(error)}. Delete it, and the training begins anew."
        ) from error


def train_once(name: str, minutes: float, train: Callable[[Path], None], write: Callable[[Path], None]) -> Path:
    """Return a folder of the cache; if missing, train and write the model.

    During training only state files are in the cache: a later call resumes after an interruption.

    Args:
        name: name of the folder.
        minutes: expected core minutes, printed to standard error.
        train: trains the model, with state files of the given path prefix.
        write: writes the trained model into an empty folder; its files get checksums.

    Raises:
        FedsimError: the cache cannot be written.
    """
    final = checkpoints.cache() / name
    if final.is_dir():
        return final
    with checkpoints.announce_build(
        final, f"about {minutes:g} min of a core, and goes on where it was if it is interrupted"
    ):
        train(final)
        with checkpoints.whole(final) as folder:
            write(folder)
            checkpoints.seal(folder)
    for state in final.parent.glob(f"{name}.*"):
        if state.is_file():
            state.unlink()
    return final
