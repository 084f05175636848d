"""Types of named tensors, and the base class of settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

Tensors = Mapping[str, Tensor]


Masks = tuple[Tensor, ...]


Memory = dict[str, dict[str, Tensor]]  # a client's memory between rounds: owner -> name -> tensor


Loss = Callable[[Tensor, Tensor], Tensor]


Draws = Mapping[str, Tensor]  # draws of components and task in a step, by "component.name" and "task.name"


NAMES_PATH = "names a path"  # metadata of a setting that is text and may be the path of a folder


NameOrFolder = Annotated[str, NAMES_PATH]


class Config(BaseModel):
    """Base class of settings: immutable, unknown keys refused, numbers finite; bounds and units in fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def changed(config: type[Config], **default: Any) -> Any:
    """Return a field of `config` with another default, for a subclass that redefines it; text and bounds stay.

    Args:
        config: class that defines the field.
        default: name of one field and its new default.
    """
    ((name, value),) = default.items()
    field = config.model_fields[name]
    bounds = {bound: limit for rule in field.metadata for bound, limit in asdict(rule).items()}
    return Field(default=value, description=field.description, **bounds)
