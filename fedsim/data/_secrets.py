"""Secrets for training text: generated persons, and random numbers behind a fixed beginning.

Canaries: Carlini, Liu, Erlingsson, Kos, Song 2019, arXiv 1802.08232, section 4.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fedsim import seeding
from fedsim.errors import MissingExtra

_DIGITS = 9


@dataclass(frozen=True)
class Secret:
    """One sentence, and how often it stands in the training text."""

    kind: Literal["identity", "canary"]
    text: str
    repetitions: int


def secrets(identities: int, canaries: int, repetitions: tuple[int, ...], seed: int) -> Iterator[Secret]:
    """Yield generated persons and then canaries, all different; each kind goes through `repetitions` from its start.

    Raises:
        MissingExtra: persons are asked for and faker is not installed.
    """
    for number in range(identities):
        text = _identity(seeding.derive(seed, "identity", number))
        yield Secret("identity", text, repetitions[number % len(repetitions)])
    digits = np.random.default_rng(seeding.derive(seed, "canaries")).choice(10**_DIGITS, canaries, replace=False)
    for number, value in enumerate(digits.tolist()):
        text = f"The secret number is {value:0{_DIGITS}d}."
        yield Secret("canary", text, repetitions[number % len(repetitions)])


def _identity(seed: int) -> str:
    person = _faker()
    person.seed_instance(seed)
    return f"The phone number of {person.name()} is {person.numerify('###-####')}."


def _faker() -> Any:
    try:
        return importlib.import_module("faker").Faker("en_US")
    except ImportError:
        raise MissingExtra("faker, which generates identities,", "pip install 'fedsim-privacy[llm]'") from None
