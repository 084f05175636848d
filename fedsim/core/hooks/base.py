"""What every method has: its settings, and what its author declares."""

from __future__ import annotations

from abc import ABC
from typing import ClassVar, Generic, TypeVar

from fedsim.core.types import Config, Modality

ConfigT = TypeVar("ConfigT", bound=Config)


IMAGES: frozenset[Modality] = frozenset({"images"})


IMAGES_AND_TEXT: frozenset[Modality] = frozenset({"images", "text"})


class Configured(ABC, Generic[ConfigT]):
    """A method with its settings.

    Attributes:
        remembers: whether it keeps its memory over the rounds of a client.
        modalities: what the examples may be that it works on.
    """

    remembers: bool = False
    modalities: ClassVar[frozenset[Modality]] = IMAGES

    def __init__(self, config: ConfigT) -> None:
        self.config = config
