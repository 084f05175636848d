"""Base class and common parts of a record."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict

from fedsim.core.types import Config


class Part(Config):
    """Base class of record parts. JSON has no infinite numbers or NaN, so they are serialised as text."""

    model_config = ConfigDict(allow_inf_nan=True, ser_json_inf_nan="strings")


class Interval(Part):
    """An estimate over n units. `low` and `high` are None when n does not support an interval."""

    value: float
    low: float | None
    high: float | None
    n: int


Cause = Literal["error", "crash", "dropout", "late", "not finite", "no reply", "refused", "aborted"]


class Failure(Part):
    """A client, arm or round without a result, and the reason.

    `error` is an unexpected exception; `refused` is a client that rejected the server's message; `aborted` is a whole
    round, with `who` equal to ``round``.
    """

    who: str
    why: str
    cause: Cause = "error"
