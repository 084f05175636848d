"""Base class of methods: settings, and declarations of the author."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, Self, TypeVar, final, get_args

from fedsim.core.grants import Grants
from fedsim.core.settings import Config
from fedsim.core.types.data import LabelKind, Modality

ConfigT = TypeVar("ConfigT", bound=Config)
Tables = Mapping[str, Any]  # scenario tables, named as in the file


IMAGES: frozenset[Modality] = frozenset({"images"})


IMAGES_AND_TEXT: frozenset[Modality] = frozenset({"images", "text"})


ANYTHING: frozenset[Modality] = IMAGES_AND_TEXT | {"anything"}  # for methods that use only tensors of the model


CLASSES: frozenset[LabelKind] = frozenset({"class"})


ANY_LABELS: frozenset[LabelKind] = frozenset(get_args(LabelKind))  # for methods that do not depend on labels


class ConfiguredMethod(ABC, Generic[ConfigT]):
    """A method with its settings.

    Attributes:
        keeps_state: whether its memory persists over the rounds of a client.
        modalities: kinds of examples that it supports.
        label_kinds: kinds of labels that it supports; methods that use only tensors of the model support all.
    """

    keeps_state: bool = False
    modalities: ClassVar[frozenset[Modality]] = IMAGES
    label_kinds: ClassVar[frozenset[LabelKind]] = CLASSES
    _name: str = ""

    def __init__(self, config: ConfigT) -> None:
        self.config = config

    @classmethod
    def missing_grants(cls, grants: Grants) -> str | None:
        """Return what it needs that a scenario does not grant, as a sentence without subject, or None."""
        return None

    @property
    def name(self) -> str:
        """Name under which it was chosen; the class name if it was not chosen by name."""
        return self._name or type(self).__name__

    @final
    def with_name(self, name: str) -> Self:
        """Set the name under which it was chosen, and return the method."""
        self._name = name
        return self
