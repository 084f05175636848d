"""Base class of settings. Importing this module does not import torch: a scenario's keys are checked in a second."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

DeviceName = Literal["auto", "cpu", "cuda"]


NAMES_PATH = "names a path"  # metadata of a setting that is text and may be the path of a folder


NameOrFolder = Annotated[str, NAMES_PATH]


class Config(BaseModel):
    """Base class of settings: immutable, unknown keys refused, numbers finite; bounds and units in fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def change_default(config: type[Config], **default: Any) -> Any:
    """Return a field of `config` with another default, for a subclass that redefines it; text and bounds stay.

    Args:
        config: class that defines the field.
        default: name of one field and its new default.
    """
    ((name, value),) = default.items()
    field = config.model_fields[name]
    bounds = {bound: limit for rule in field.metadata for bound, limit in asdict(rule).items()}
    return Field(default=value, description=field.description, **bounds)
