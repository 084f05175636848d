"""What every part of a record is made of."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict

from fedsim.core.types import Config


class Part(Config):
    """Numbers that are not finite are written as text, which reads back; JSON has no word for them."""

    model_config = ConfigDict(allow_inf_nan=True, ser_json_inf_nan="strings")


class Interval(Part):
    """An estimate over n units. `low` and `high` are None when n does not support an interval."""

    value: float
    low: float | None
    high: float | None
    n: int


Cause = Literal["error", "crash", "dropout", "late", "not finite", "no reply", "refused", "aborted"]


class Failure(Part):
    """Somebody or something that was left out, and why.

    `error` covers what nobody declared; `refused` is a client that did not train on what the server sent; `aborted` is
    a whole round, `who` then being ``round``.
    """

    who: str
    why: str
    cause: Cause = "error"
