"""What attackers draw from, made secret: without the salt, no number that an attack sees tells the scenario's seed.

A generator's seed derives from the scenario's by functions that everybody knows, and who tries small seeds finds it.
With a salt it derives from both by a keyed hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedsim.core.hooks import TraceAttack
from fedsim.core.types import Observation, OnStep, Reconstruction, Tensors, TraceCase
from fedsim.scenario import AttackChoice
from fedsim.scenario.choices import Choice
from fedsim.threat.attacking import Attacker, ShouldStop
from fedsim.threat.attacking.asking import AttributeReader
from fedsim.threat.attacking.processes import Processes
from fedsim.threat.attacking.reading import Answer


def salted(processes: Processes, salt: bytes) -> Processes:
    """Return what starts the same attacks, each of which draws from generators that the salt has changed."""

    @contextmanager
    def attackers(choice: AttackChoice, seed: int, should_stop: ShouldStop) -> Iterator[Attacker]:
        with processes.attackers(choice, _hashed(seed, salt), should_stop) as attacker:
            yield _Searching(attacker, salt)

    @contextmanager
    def readers(should_stop: ShouldStop) -> Iterator[Answer]:
        with processes.readers(should_stop) as answer:

            def salted_answer(attack: TraceAttack[Any], case: TraceCase, generator: torch.Generator) -> Tensor:
                return answer(attack, case, _changed(generator, salt))

            yield salted_answer

    @contextmanager
    def askers(should_stop: ShouldStop) -> Iterator[Callable[[Choice], AttributeReader]]:
        with processes.askers(should_stop) as make:
            yield lambda choice: _Reading(make(choice), salt)

    return Processes(attackers, readers, askers)


@dataclass(frozen=True)
class _Searching:
    """An attack on updates whose generators are salted."""

    attacker: Attacker
    salt: bytes

    def at_once(self, first: Observation) -> int:
        return self.attacker.at_once(first)

    def search(
        self, seen: Sequence[Observation], generators: Sequence[torch.Generator], watch: OnStep
    ) -> list[Reconstruction] | str:
        return self.attacker.search(seen, [_changed(generator, self.salt) for generator in generators], watch)


@dataclass(frozen=True)
class _Reading:
    """An attack on an attribute whose generators are salted."""

    reader: AttributeReader
    salt: bytes

    def describe(self, change: Tensors, generator: torch.Generator) -> Tensor:
        return self.reader.describe(change, _changed(generator, self.salt))

    def __call__(self, known: Tensor, labels: Tensor, asked: Tensor, generator: torch.Generator) -> Tensor:
        return self.reader(known, labels, asked, _changed(generator, self.salt))


def _changed(generator: torch.Generator, salt: bytes) -> torch.Generator:
    """Return a new generator in place of one that nothing was drawn from."""
    return torch.Generator().manual_seed(_hashed(generator.initial_seed(), salt))


def _hashed(seed: int, salt: bytes) -> int:
    """Return 63 bits of a seed, hashed with the salt as key."""
    digest = hashlib.blake2b(seed.to_bytes(8, "little"), key=salt, digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
