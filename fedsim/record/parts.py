"""Base class and common parts of a record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import ConfigDict

from fedsim.core.types import Config


class RecordModel(Config):
    """Base class of record parts. JSON has no infinite numbers or NaN, so they are serialised as text."""

    model_config = ConfigDict(allow_inf_nan=True, ser_json_inf_nan="strings")

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy the part with changed fields; pydantic alone would accept names of no field.

        Raises:
            AttributeError: `update` names a field that the part lacks.
        """
        for name in update or {}:
            if name not in type(self).model_fields and not hasattr(type(self), name):
                raise AttributeError(f"{type(self).__name__} has no field '{name}'.")
        return super().model_copy(update=update, deep=deep)


class Interval(RecordModel):
    """An estimate over n units. `low` and `high` are None when n does not support an interval."""

    value: float
    low: float | None
    high: float | None
    n: int


Cause = Literal["error", "crash", "dropout", "late", "not finite", "no reply", "refused", "aborted"]


class Failure(RecordModel):
    """A client, arm or round without a result, and the reason.

    `error` is an unexpected exception; `refused` is a client that rejected the server's message; `aborted` is a whole
    round, with `who` equal to ``round``.
    """

    subject: str
    reason: str
    cause: Cause = "error"
