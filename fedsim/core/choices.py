"""Choice of a method by name, with its settings in the same table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast, final, overload

from pydantic import BaseModel, Field, GetJsonSchemaHandler, model_serializer, model_validator
from pydantic_core import CoreSchema

from fedsim.core import registry
from fedsim.core.registry import Kind
from fedsim.core.settings import Config

if TYPE_CHECKING:  # these modules import torch
    from torch import nn

    from fedsim.core.hooks import Task
    from fedsim.core.types import Dataset
    from fedsim.core.types.configured import ConfiguredMethod


@final
class ResolvedSettings(dict[str, Any]):
    """Settings with all defaults, together with the validated config."""

    def __init__(self, config: Config) -> None:
        super().__init__(config.model_dump(mode="json"))
        self.config = config


class Choice(Config):
    """Choice of a method by name; its settings are in the same table.

    Attributes:
        kind: kind of the selectable methods, if fixed.
        hooks: hooks of the selectable components; empty for any.
        base: base class of the selectable methods, if their kind has several base classes; object for any.
    """

    kind: ClassVar[Kind | None] = None
    hooks: ClassVar[tuple[str, ...]] = ()
    base: ClassVar[type[Any]] = object
    name: str = Field(min_length=1, description="a name that `fedsim list` prints")
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _split_settings(cls, raw: Any) -> Any:
        fields = set(cls.model_fields)
        if not isinstance(raw, Mapping) or "settings" in raw:
            return raw
        table = cast("Mapping[str, Any]", raw)
        return {
            **{key: value for key, value in table.items() if key in fields},
            "settings": {key: value for key, value in table.items() if key not in fields},
        }

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return the schema of the table as it is written: settings are further keys."""
        schema = handler.resolve_ref_schema(handler(core_schema))
        schema["properties"].pop("settings")
        return {**schema, "additionalProperties": True}

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        fields = {key: getattr(self, key) for key in type(self).model_fields if key != "settings"}
        return {**fields, **self.settings}

    @overload
    def make(self, kind: Literal["dataset"]) -> Dataset: ...

    @overload
    def make(self, kind: Literal["model"], *context: Any) -> nn.Module: ...

    @overload
    def make(self, kind: Literal["task"]) -> Task[Any]: ...

    @overload
    def make(self, kind: Kind, *context: Any) -> Any: ...

    def make(self, kind: Kind, *context: Any) -> Any:
        """Build the method: a class gets its config, a function its config and `context`. Hooks also get their name."""
        from fedsim.core.types.configured import ConfiguredMethod  # noqa: PLC0415 - a scenario's keys need no torch

        method, settings = registry.get(kind, self.name, self.base), self.settings
        config = settings.config if isinstance(settings, ResolvedSettings) else method.config.model_validate(settings)
        made = method.make(config, *context)
        return cast("ConfiguredMethod[Any]", made).with_name(self.name) if isinstance(made, ConfiguredMethod) else made


def choices_in(table: BaseModel, place: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Choice]]:
    """Yield each choice of a table that declares its kind, with its path in the table, outer before inner."""
    for name in type(table).model_fields:
        value = getattr(table, name)
        parts = enumerate(cast("tuple[Any, ...]", value)) if isinstance(value, tuple) else [(None, value)]
        for number, part in parts:
            path = (*place, name) if number is None else (*place, name, number)
            if isinstance(part, Choice) and part.kind is not None:
                yield path, part
            if isinstance(part, BaseModel):
                yield from choices_in(part, path)
