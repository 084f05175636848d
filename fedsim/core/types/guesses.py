"""Result of an attack, and its progress reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from fedsim.core import guess_files
from fedsim.core.errors import FedsimError
from fedsim.core.types.basics import Masks, Tensors
from fedsim.core.types.data import Batch, Tokenizer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_POINTS = 200  # maximum length of a history
_SHOWN = 8  # maximum number of labels in `repr`
_SAVED = (
    "objective",
    "iterations",
    "best_iteration",
    "stop_reason",
    "notes",
    "diagnostics",
    "is_exact",
    "has_exact_inputs",
    "history",
)

NO_LABEL = -1
"""Placeholder for a label without a guess."""


@dataclass(frozen=True)
class Step:
    """Progress of an attack: restart, iteration (from 1), objective, and best objective so far.

    Attributes:
        guess: the dummy inputs at this iteration, normalised; detached.
    """

    restart: int
    iteration: int
    iterations: int
    objective: float
    best: float
    guess: Tensor


OnStep = Callable[[Step], None]


class Applicability(NamedTuple):
    """Whether an attack fits an observation; if not, the reason, as the end of a sentence."""

    holds: bool
    reason: str = ""


@dataclass(frozen=True)
class Reconstruction:
    """An attacker's guess.

    Attributes:
        inputs: guessed examples, normalised, shape (B, *spec.shape); for text, token ids (N, T) of N recovered
            sentences, negative after the end of a guess.
        labels: guessed or granted labels, shape (B,).
        masks: estimated dropout masks in [0, 1] in call order, or None if not estimated.
        objective: the attack's own objective at the guess.
        iterations: iterations used, over all restarts.
        best_iteration: iteration (from 1) of the guess within its restart.
        history: (iteration, objective) pairs of the winning restart, thinned.
        stop_reason: why it ended, for example ``"objective below threshold"``.
        notes: remarks for readers of the record.
        diagnostics: values that explain the result, by name: numerical rank, condition number, converged restarts.
        is_exact: whether the attack's equations, more than its unknowns, hold up to rounding, so that no search can
            explain the update better.
        has_exact_inputs: whether equations of the inputs alone, more than their unknowns, hold up to rounding, while
            labels or masks are not proven: no search could find better inputs.
        trained_batch: estimate of the batch as the model got it, labels as probabilities (B, K), in any order; None if
            it equals `inputs` and `labels`.
        extras: further inferred tensors, by "component.name" or "task.name"; the named component or task scores them.
    """

    inputs: Tensor
    labels: Tensor
    masks: Masks | None
    objective: float
    iterations: int
    best_iteration: int
    history: tuple[tuple[int, float], ...]
    stop_reason: str
    notes: tuple[str, ...] = ()
    diagnostics: Mapping[str, float] = field(default_factory=dict[str, float])
    is_exact: bool = False
    has_exact_inputs: bool = False
    trained_batch: Batch | None = None
    extras: Tensors = field(default_factory=dict[str, Tensor])

    @classmethod
    def of(
        cls,
        inputs: Tensor,
        labels: Tensor | None = None,
        *,
        masks: Masks | None = None,
        objective: float = float("nan"),
        iterations: int = 0,
        best_iteration: int | None = None,
        history: Sequence[tuple[int, float]] = (),
        stop_reason: str = "done",
        notes: Sequence[str] = (),
        diagnostics: Mapping[str, float] | None = None,
        is_exact: bool = False,
        trained_batch: Batch | None = None,
        extras: Tensors | None = None,
    ) -> Reconstruction:
        """Return a guess with defaults for all fields but the inputs.

        Args:
            inputs: shape (B, *spec.shape), or tokens (N, T).
            labels: shape (B,); default class 0, for attacks that recover inputs only.
            masks: as in the class attributes, like the following arguments.
            objective: default NaN.
            iterations: default 0.
            best_iteration: default the last.
            history: thinned here; default the objective after the last iteration.
            stop_reason: why the search ended.
            notes: remarks for readers of the record.
            diagnostics: values by name.
            is_exact: as in the class attributes.
            trained_batch: as in the class attributes.
            extras: as in the class attributes.

        Raises:
            FedsimError: the number of labels differs from the number of examples.
        """
        labels = torch.zeros(len(inputs), dtype=torch.long) if labels is None else labels.detach().clone()
        if len(labels) != len(inputs):
            raise FedsimError(
                f"the guess has {len(labels)} labels for {len(inputs)} examples, expected a label for each."
            )
        whole = list(history) or ([(iterations, objective)] if iterations else [])
        return cls(
            inputs=inputs.detach(),
            labels=labels,
            masks=masks,
            objective=objective,
            iterations=iterations,
            best_iteration=iterations if best_iteration is None else best_iteration,
            history=tuple(whole[:: -(-len(whole) // _POINTS) or 1]),
            stop_reason=stop_reason,
            notes=tuple(notes),
            diagnostics=dict(diagnostics or {}),
            is_exact=is_exact,
            trained_batch=trained_batch,
            extras=dict(extras or {}),
        )

    def __repr__(self) -> str:
        """Return a one-line summary of guess and ending, without tensors."""
        shape = " x ".join(map(str, self.inputs.shape[1:]))
        count = len(self.inputs)
        return (
            f"Reconstruction({count} {'example' if count == 1 else 'examples'} of {shape}, labels "
            f"{_first_labels(self.labels)}, objective {self.objective:.3g} at iteration {self.best_iteration} of "
            f"{self.iterations}: {self.stop_reason})"
        )

    def show(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> Figure | str:
        """Return a figure of the images, or for other inputs a text with a line per example.

        Args:
            mean: per-channel mean that was subtracted from pixels in [0, 1]; default 0.
            std: per-channel standard deviation that was divided by; default 1.
            tokenizer: maps token ids to words; without it ids are shown.
        """
        if guess_files.are_images(self.inputs):
            return guess_files.figure(self.inputs, self.labels, mean, std)
        return guess_files.text(self.inputs, None if tokenizer is None else tokenizer.decode)

    def save(self, folder: str | Path, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> Path:
        """Write `guess.json`, `inputs.npy`, and a PNG per image or `text.txt`; return the folder.

        Args:
            folder: created if missing.
            mean: as in `show`.
            std: as in `show`.

        Raises:
            FedsimError: the folder contains such a file already, or cannot be written.
        """
        figures = {name: getattr(self, name) for name in _SAVED}
        guess_files.save(Path(folder), self.inputs, self.labels, figures, mean, std)
        return Path(folder)


def _first_labels(labels: Tensor) -> str:
    """Return the first labels in brackets."""
    flat = labels.flatten()
    shown = [f"{float(flat[place]):g}" for place in range(min(_SHOWN, len(flat)))]
    return f"[{', '.join(shown)}{', ...' if len(flat) > _SHOWN else ''}]"
