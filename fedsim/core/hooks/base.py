"""What every method has: its settings, and what its author declares."""

from __future__ import annotations

from abc import ABC
from typing import ClassVar, Generic, Self, TypeVar, final

from fedsim.core.types import Config, Modality

ConfigT = TypeVar("ConfigT", bound=Config)


IMAGES: frozenset[Modality] = frozenset({"images"})


IMAGES_AND_TEXT: frozenset[Modality] = frozenset({"images", "text"})


ANYTHING: frozenset[Modality] = IMAGES_AND_TEXT | {"anything"}  # of who sees tensors of the model alone


class Configured(ABC, Generic[ConfigT]):
    """A method with its settings.

    Attributes:
        remembers: whether it keeps its memory over the rounds of a client.
        modalities: what the examples may be that it works on.
    """

    remembers: bool = False
    modalities: ClassVar[frozenset[Modality]] = IMAGES
    _name: str = ""

    def __init__(self, config: ConfigT) -> None:
        self.config = config

    @property
    def name(self) -> str:
        """The name under which it was chosen; that of its class where nobody chose it by name."""
        return self._name or type(self).__name__

    @final
    def named(self, name: str) -> Self:
        """Take the name under which it was chosen, and return itself."""
        self._name = name
        return self
