"""What every method has: its settings, and what its author declares."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Self, TypeVar, final

from fedsim.core.types import Config, Knowledge, Modality, View

ConfigT = TypeVar("ConfigT", bound=Config)
Tables = Mapping[str, Any]  # of a scenario, as its file names them


IMAGES: frozenset[Modality] = frozenset({"images"})


IMAGES_AND_TEXT: frozenset[Modality] = frozenset({"images", "text"})


ANYTHING: frozenset[Modality] = IMAGES_AND_TEXT | {"anything"}  # of who sees tensors of the model alone


@dataclass(frozen=True)
class Grants:
    """What a scenario grants to one method.

    Attributes:
        knows: what the attacker knows, with what this method knows beyond the threat model.
        sees: what the server sees in a round.
        may_craft: whether the server may change the model that clients receive.
        masks_updates: whether secure aggregation hides single updates from the server.
        is_attacked: whether attacks look at what the server sees.
    """

    knows: frozenset[Knowledge]
    sees: View
    may_craft: bool
    masks_updates: bool
    is_attacked: bool


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

    @classmethod
    def needs_more(cls, grants: Grants) -> str | None:
        """Return what it needs that a scenario does not grant, as a sentence without its subject, or None."""
        return None

    @property
    def name(self) -> str:
        """The name under which it was chosen; that of its class where nobody chose it by name."""
        return self._name or type(self).__name__

    @final
    def named(self, name: str) -> Self:
        """Take the name under which it was chosen, and return itself."""
        self._name = name
        return self
