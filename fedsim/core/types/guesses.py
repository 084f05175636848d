"""What an attack returns, and what it says on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from fedsim.core.types.basics import Masks, Tensors
from fedsim.core.types.data import Batch


@dataclass(frozen=True)
class Step:
    """Progress of an attack: restart, iteration (from 1), the objective and the best guess so far.

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
    """Whether an attack fits an observation; if not, why, in words that end a sentence."""

    holds: bool
    reason: str = ""


@dataclass(frozen=True)
class Reconstruction:
    """An attacker's guess.

    Attributes:
        inputs: guessed examples, normalised, shape (B, *spec.shape); of text, token numbers (N, T), negative where a
            guess has ended, for as many sentences as were found.
        labels: guessed or granted labels, shape (B,).
        masks: estimated dropout masks in [0, 1] in call order, or None when not estimated.
        objective: the attack's own objective at the guess.
        iterations: iterations used, over all restarts.
        best_iteration: iteration (from 1) of the guess within its restart.
        history: (iteration, objective) pairs of the winning restart, thinned.
        stopped: why it ended, for example ``"objective below threshold"``.
        notes: anything a reader of the record should know.
        facts: figures that explain the result, by name: numerical rank, condition number, restarts that converged.
        is_exact: whether the attack's own equations, more than its unknowns, hold up to rounding: no search could
            explain the update better.
        trained: the batch that the attack takes the model to have seen, labels as probabilities (B, K), in any order;
            None when it takes that for `inputs` and `labels` themselves.
        found: what else was read, by "component.what"; scored by the component of that name.
    """

    inputs: Tensor
    labels: Tensor
    masks: Masks | None
    objective: float
    iterations: int
    best_iteration: int
    history: tuple[tuple[int, float], ...]
    stopped: str
    notes: tuple[str, ...] = ()
    facts: Mapping[str, float] = field(default_factory=dict[str, float])
    is_exact: bool = False
    trained: Batch | None = None
    found: Tensors = field(default_factory=dict[str, Tensor])
