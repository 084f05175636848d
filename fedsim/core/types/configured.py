"""What every method has: its settings, and what its author declares."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, Self, TypeVar, final, get_args

from fedsim.core.types.basics import Config
from fedsim.core.types.data import LabelKind, Modality
from fedsim.core.types.grants import Grants

ConfigT = TypeVar("ConfigT", bound=Config)
Tables = Mapping[str, Any]  # of a scenario, as its file names them


IMAGES: frozenset[Modality] = frozenset({"images"})


IMAGES_AND_TEXT: frozenset[Modality] = frozenset({"images", "text"})


ANYTHING: frozenset[Modality] = IMAGES_AND_TEXT | {"anything"}  # of who sees tensors of the model alone


CLASSES: frozenset[LabelKind] = frozenset({"class"})


ANY_LABELS: frozenset[LabelKind] = frozenset(get_args(LabelKind))  # of who leaves labels to the client's loss


class Configured(ABC, Generic[ConfigT]):
    """A method with its settings.

    Attributes:
        remembers: whether it keeps its memory over the rounds of a client.
        modalities: what the examples may be that it works on.
        label_kinds: what their labels may be; who sees tensors of the model alone works with any.
    """

    remembers: bool = False
    modalities: ClassVar[frozenset[Modality]] = IMAGES
    label_kinds: ClassVar[frozenset[LabelKind]] = CLASSES
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
