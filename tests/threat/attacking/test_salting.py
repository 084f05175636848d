"""Attacks of every kind draw from generators that depend on the salt and on the seed, and see neither."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from fedsim.core import seeding
from fedsim.scenario import AttackChoice, Choice
from fedsim.threat.attacking.processes import Processes
from fedsim.threat.attacking.salting import salted

SALT = bytes(range(16))


def expected(seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(seed.to_bytes(8, "little"), key=SALT, digest_size=8).digest(), "little") >> 1


class Spying:
    """Notes the seeds of all generators that it is given."""

    def __init__(self) -> None:
        self.seeds: list[int] = []

    def at_once(self, first: Any) -> int:
        return 3

    def search(self, seen: Any, generators: Any, watch: Any) -> Any:
        self.seeds += [generator.initial_seed() for generator in generators]
        return "no guess"

    def describe(self, change: Any, generator: torch.Generator) -> torch.Tensor:
        self.seeds.append(generator.initial_seed())
        return torch.zeros(1)

    def __call__(self, *arguments: Any) -> torch.Tensor:
        self.seeds.append(arguments[-1].initial_seed())
        return torch.zeros(1)

    @contextmanager
    def attackers(self, choice: Any, seed: int, should_stop: Any) -> Iterator[Any]:
        self.seeds.append(seed)
        yield self

    @contextmanager
    def readers(self, should_stop: Any) -> Iterator[Any]:
        yield self

    @contextmanager
    def askers(self, should_stop: Any) -> Iterator[Callable[[Any], Any]]:
        yield lambda _choice: self


def test_every_generator_that_an_attack_gets_is_salted() -> None:
    spy = Spying()
    processes = salted(Processes(spy.attackers, spy.readers, spy.askers), SALT)
    sources = [seeding.generator(11, "attack", client) for client in range(2)]
    seeds = [source.initial_seed() for source in sources]
    empty: Any = None
    with processes.attackers(AttackChoice(name="dlg"), 5, lambda: False) as attacker:
        assert attacker.at_once(empty) == 3
        assert attacker.search([], sources, lambda _step: None) == "no guess"
    with processes.readers(lambda: False) as answer:
        answer(empty, empty, sources[0])
    with processes.askers(lambda: False) as make:
        reader = make(Choice(name="change-norms"))
        reader.describe({}, sources[0])
        reader(empty, empty, empty, sources[1])
    given = [5, *seeds, seeds[0], seeds[0], seeds[1]]
    assert spy.seeds == [expected(seed) for seed in given]
    assert not set(spy.seeds) & set(given)
