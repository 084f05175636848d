"""Running an attack on traces: in this process, or in one of its own that gets what is seen and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

from fedsim.core import seeding
from fedsim.core.hooks import TraceAttack
from fedsim.core.types import TraceCase
from fedsim.threat.attacking import ShouldStop, frames
from fedsim.threat.attacking.apart import Apart

Answer = Callable[[TraceAttack[Any], TraceCase, torch.Generator], Tensor]
"""Has an attack answer a case; raises what the attack raised, or says why it failed."""

Readers = Callable[[ShouldStop], AbstractContextManager[Answer]]
"""Gives out what has attacks on traces answer, for as long as a model writes."""


def answer_here(attack: TraceAttack[Any], case: TraceCase, generator: torch.Generator) -> Tensor:
    """Return an attack's answer, from this process."""
    with seeding.isolate_randomness(_foreign(generator)):
        return attack(case, generator)


@contextmanager
def read_here(should_stop: ShouldStop) -> Iterator[Answer]:
    """Have attacks answer in this process."""
    yield answer_here


@contextmanager
def read_isolated(should_stop: ShouldStop) -> Iterator[Answer]:
    """Have each attack answer in a process of its own; all of them end with this block."""
    known: dict[str, Apart] = {}

    def answer(attack: TraceAttack[Any], case: TraceCase, generator: torch.Generator) -> Tensor:
        about = {"name": attack.name, "settings": attack.config.model_dump(mode="json")}
        whose = json.dumps(about, sort_keys=True)
        if whose not in known:
            known[whose] = Apart({"trace": about, "seed": 0}, should_stop)
        request = {"case": case, "generator": generator.get_state(), "seed": _foreign(generator)}
        kind, payload = known[whose].ask(frames.READ, request)
        if kind not in (frames.ANSWER, frames.FAILED):
            known[whose].end()  # what else is in the pipe answers nothing that will be asked
        return frames.read_answer(kind, payload)

    try:
        yield answer
    finally:
        for own in known.values():
            own.end()


def _foreign(generator: torch.Generator) -> int:
    """Return the seed of global generators that an attack may draw from."""
    return seeding.derive(generator.initial_seed(), "foreign to a trace attack")
