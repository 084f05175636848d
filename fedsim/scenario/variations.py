"""Tables of several runs: arms, sweeps, and tuning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, cast

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from fedsim.core.settings import NAMES_PATH, Config


def _check_entries(raw: Any) -> Any:
    """Check an entry's type; pydantic's own message would name both alternatives."""
    for key, entry in cast("Mapping[str, Any]", raw).items() if isinstance(raw, Mapping) else ():
        if not isinstance(entry, list | tuple) and not _is_of_tables(entry):
            raise ValueError(
                f"'{key}' is {entry!r}, expected a list of values under a dotted key in quotes, as "
                '"model.dropout" = [0.0, 0.5], or a table of named tables'
            )
    return raw


def _is_of_tables(entry: Any) -> bool:
    return isinstance(entry, Mapping) and all(isinstance(table, Mapping) for table in entry.values())


Values = Annotated[dict[str, tuple[Any, ...] | dict[str, dict[str, Any]]], BeforeValidator(_check_entries)]


class Sweep(Config):
    """Several runs of a scenario: every combination of `grid`, `runs` and `seeds`.

    An entry of `grid` has the form of an entry of `arms`: a dotted key with a list of values, or a user-defined name
    with a table of named settings. Runs with the same seed have the same victims.
    """

    grid: Values = Field(default_factory=dict)
    runs: tuple[dict[str, Any], ...] = Field(default=(), description="dotted keys that single runs set together")
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(), description="the scenario's own when empty")
    minutes: float | None = Field(
        default=None, gt=0, description="processor time of a run; a longer run is stopped and counts as failed"
    )
    memory: float | None = Field(default=None, gt=0, description="GiB of address space of a worker")

    @model_validator(mode="after")
    def _consistent(self) -> Sweep:
        empty = [key for key, entry in self.grid.items() if not entry]
        if empty:
            raise ValueError(f"grid: '{empty[0]}' has no value, so no run is defined. Add a value, or remove the key")
        twice = sorted({seed for seed in self.seeds if self.seeds.count(seed) > 1})
        if twice:
            raise ValueError(f"seeds: {twice[0]} stands there twice")
        return self


class SearchRange(Config):
    """A search range; of integers if both ends are integers."""

    low: int | float
    high: int | float
    log: bool = Field(default=False, description="search orders of magnitude")

    @model_validator(mode="after")
    def _consistent(self) -> SearchRange:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"expected low below high, and low above 0 with log; got {self.low} and {self.high}")
        return self


class TrialCountLaw(Config):
    """Distribution of a random number of runs: truncated negative binomial, at least 1."""

    mean: float = Field(gt=1, lt=1e6, description="of the number of runs")
    shape: float = Field(
        default=1.0, gt=-1, lt=1e3, description="1 is the geometric distribution, 0 the logarithmic distribution"
    )


Trials = Annotated[
    Annotated[int, Field(ge=1), Tag("number")] | Annotated[TrialCountLaw, Tag("law")],
    Discriminator(lambda raw: "law" if isinstance(raw, TrialCountLaw | Mapping) else "number"),
]


class Tune(Config):
    """Search of `fedsim tune` for the strongest settings of an attack, for every arm."""

    attack: str = Field(description="its label, or its name")
    space: Annotated[dict[str, SearchRange | tuple[Any, ...]], NAMES_PATH] = Field(
        min_length=1, description="setting to {low, high, log} or to a list of values"
    )
    trials: Trials = Field(
        default=20,
        description="runs for every arm, the first with the scenario's own setting; or {mean, shape} of "
        "the distribution of a random number of runs, each with its own training",
    )
