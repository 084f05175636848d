"""Tensors by name, and the base of every method's settings."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast

from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor

Tensors = Mapping[str, Tensor]


Masks = tuple[Tensor, ...]


Memory = dict[str, dict[str, Tensor]]  # what a client remembers between rounds: owner -> name -> tensor


Loss = Callable[[Tensor, Tensor], Tensor]


Draws = Mapping[str, Tensor]  # what the components and the task of a step drew, by "component.what" and "task.what"


class Config(BaseModel):
    """Base of every method's settings: immutable, unknown keys refused, bounds and units in the fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    old_names: ClassVar[Mapping[str, str]] = {}
    """Settings that were renamed, new name by old one: the old ones work for one version more, with a warning."""

    @model_validator(mode="before")
    @classmethod
    def _rename_settings(cls, raw: Any) -> Any:
        if not cls.old_names or not isinstance(raw, Mapping):
            return raw
        settings = dict(cast("Mapping[str, Any]", raw))
        for old, new in cls.old_names.items():
            if old in settings and new not in settings:
                warnings.warn(f"the setting '{old}' is now called '{new}'", FutureWarning, stacklevel=2)
                settings[new] = settings.pop(old)
        return settings
