"""Running an attack on attributes: in this process, or in one of its own that gets what is seen and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from fedsim.core import seeding
from fedsim.core.hooks import AttributeAttack
from fedsim.core.types import Tensors
from fedsim.scenario.choices import Choice
from fedsim.threat.attacking import ShouldStop, frames
from fedsim.threat.attacking.apart import Apart


class AttributeReader(Protocol):
    """An attack on an attribute at work, see `fedsim.core.hooks.AttributeAttack`."""

    def describe(self, change: Tensors, generator: torch.Generator) -> Tensor:
        """Return what is kept of a change, shape (F,)."""
        ...

    def __call__(self, known: Tensor, labels: Tensor, asked: Tensor, generator: torch.Generator) -> Tensor:
        """Return the probability of each value for every change that is asked about, shape (N, K)."""
        ...


Askers = Callable[[ShouldStop], AbstractContextManager[Callable[[Choice], AttributeReader]]]
"""Gives out what makes an attack on an attribute ready, for as long as updates are asked about."""


@dataclass(frozen=True)
class ReadsHere:
    """An attack in this process."""

    attack: AttributeAttack[Any]

    def describe(self, change: Tensors, generator: torch.Generator) -> Tensor:
        """Return what is kept of a change, shape (F,)."""
        with seeding.isolate_randomness(_foreign(generator)):
            return self.attack.describe(change, generator).detach()

    def __call__(self, known: Tensor, labels: Tensor, asked: Tensor, generator: torch.Generator) -> Tensor:
        """Return the probability of each value for every change that is asked about, shape (N, K)."""
        with seeding.isolate_randomness(_foreign(generator)):
            return self.attack(known, labels, asked, generator)


@contextmanager
def ask_here(should_stop: ShouldStop) -> Iterator[Callable[[Choice], AttributeReader]]:
    """Have attacks read in this process."""
    yield lambda choice: ReadsHere(choice.make("attribute"))


@contextmanager
def ask_isolated(should_stop: ShouldStop) -> Iterator[Callable[[Choice], AttributeReader]]:
    """Have each attack read in a process of its own; all of them end with this block."""
    with ExitStack() as processes:

        def make(choice: Choice) -> AttributeReader:
            own = _ReadsApart({"attribute": {"name": choice.name, "settings": choice.settings}, "seed": 0}, should_stop)
            processes.callback(own.end)
            return own

        yield make


class _ReadsApart(Apart):
    """An attack in a process of its own."""

    def describe(self, change: Tensors, generator: torch.Generator) -> Tensor:
        return self._answer(frames.DESCRIBE, {"change": dict(change)}, generator)

    def __call__(self, known: Tensor, labels: Tensor, asked: Tensor, generator: torch.Generator) -> Tensor:
        found = self._answer(frames.READ, {"known": known, "labels": labels, "asked": asked}, generator)
        return AttributeAttack.checked(found, labels, asked)

    def _answer(self, kind: frames.Kind, request: dict[str, Any], generator: torch.Generator) -> Tensor:
        source = {"seed": generator.initial_seed(), "state": generator.get_state()}
        try:
            return frames.read_answer(*self.ask(kind, {"request": request, **source}))
        except Exception:
            self.end()
            raise


def answer(attack: AttributeAttack[Any], kind: frames.Kind, asked: dict[str, Any]) -> Tensor:
    """Return what an attack answers to a request, in its own process."""
    generator = torch.Generator().manual_seed(asked["seed"])
    generator.set_state(asked["state"])
    here = ReadsHere(attack)
    return (here.describe if kind == frames.DESCRIBE else here)(**asked["request"], generator=generator)


def _foreign(generator: torch.Generator) -> int:
    """Return the seed of global generators that an attack may draw from."""
    return seeding.derive(generator.initial_seed(), "foreign to an attack on attributes")
