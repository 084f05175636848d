"""What a figure is: its name and unit, which direction is better, how it is summarised, told and judged.

A metric is declared once, above the function that takes it. Records, tables, sweeps and reports ask the declaration.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from fedsim.core.types import Config

Over = Literal["item", "update", "round", "finding"]
Statistic = Literal["mean", "median", "share"]
Form = Literal["number", "percent", "flag"]


class Metric(Config):
    """One figure. Defaults are left out where it is written down.

    Attributes:
        name: under which scorers give it and records hold it.
        title: for people, as it stands in a heading and in a sentence.
        meaning: in a sentence, for whoever reads a table.
        over: what it is taken of: an example under attack, an attacked update, the model after a round, or what a
            question found.
        unit: of a number, for example ``dB``.
        form: a number, a share that people read in per cent, or a flag, which is 1 for yes and 0 for no.
        digits: behind the point, for people.
        statistics: by the name that a figure has in summaries and in `[expected]`, how it is made of the values: their
            mean, their median, or the share of flags with Wilson's interval. The first is shown.
        limits: least and largest possible value, where there are any.
        worst: of an example for which the attack made no guess.
        noun: what an example is called that has this metric.
        decides: whether `scoring.metric` may name it.
        threshold: an example is a success beyond it, where nobody set `scoring.metric` and the example is not
            identified; None: this metric does not say so.
        verdict: what an example is called that is a success by this metric.
        chance: share of blind guesses that are a success beyond `threshold`, at most.
        of_pictures: whether its function takes pixels of guesses and of originals, (B, C, H, W), and returns (B,);
            every guessed picture then has it, and reports say what a guess without any update reaches.
        leads: whether attacks of the same success are ordered by it, and settings tuned for it, where `scoring.metric`
            is no metric of the examples.
        spread: whether figures show its whole distribution.
        steps: thresholds at which tables count the examples above.
        shown: whether tables for people have it.
        compared: whether `[expected]` has its first statistic, unless another figure says the same.
        counted: whether it counts units that succeed or fail, so that one unit may change sides on another processor.
        column: its name in tables of examples; empty: its own name.
        tables: the tables of examples that hold it: all, that of a run alone, or none.
        table: title of a table of its own that it stands in with others; empty: it stands in the table of attacks.
        by: another metric of the same examples, by whose value this one is counted as well; empty: none.
        ranges: of that value, above the first number and up to the second.
    """

    name: str
    title: str
    meaning: str
    over: Over
    better: Literal["higher", "lower"] = "higher"
    unit: str = ""
    form: Form = "number"
    digits: int = Field(default=2, ge=0)
    statistics: dict[str, Statistic] = Field(default_factory=dict)
    limits: tuple[float | None, float | None] = (None, None)
    worst: float | None = None
    noun: str = "example"
    decides: bool = False
    threshold: float | None = None
    verdict: str = "recovered"
    chance: float = Field(default=0.0, ge=0, lt=1)
    of_pictures: bool = False
    leads: bool = False
    spread: bool = False
    steps: tuple[float, ...] = ()
    shown: bool = True
    compared: bool = True
    counted: bool = False
    column: str = ""
    tables: Literal["all", "run", "none"] = "all"
    table: str = ""
    by: str = ""
    ranges: tuple[tuple[float, float], ...] = ()

    @model_validator(mode="after")
    def _check_round(self) -> Self:
        if self.over == "round" and self.statistics:
            raise ValueError("a metric of a round has one value a round: leave statistics out")
        return self

    @model_validator(mode="after")
    def _check_pictures(self) -> Self:
        if self.of_pictures and self.worst is None:
            raise ValueError("a metric of pictures scores guesses that are none: say by worst which value they have")
        return self

    @model_serializer(mode="wrap")
    def _without_defaults(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in fields(self).items() if name in self.model_fields_set}

    @property
    def in_tables(self) -> str:
        """Its name as a column of tables of examples."""
        return self.column or self.name

    @property
    def scale(self) -> float:
        """What people read is so many times the value."""
        return 1.0 if self.form == "number" else 100.0

    @property
    def suffix(self) -> str:
        """What stands behind the number that people read."""
        return "%" if self.form != "number" else f" {self.unit}" if self.unit else ""

    @property
    def sign(self) -> float:
        """1 where higher is better, else -1."""
        return 1.0 if self.better == "higher" else -1.0

    def format(self, value: float) -> str:
        """Return a value for people, with its unit."""
        return f"{value * self.scale:.{self.digits}f}{self.suffix}"

    def tell(self, value: float) -> str:
        """Return a value for people, with its unit or else its title."""
        return self.format(value) if self.unit else f"{self.title} {self.format(value)}"

    def plain(self, value: float) -> float | bool:
        """Return a value as tables hold it."""
        return bool(value) if self.form == "flag" else value

    def is_beyond(self, value: float, threshold: float) -> bool:
        """Tell whether a value is better than a threshold."""
        return self.sign * value > self.sign * threshold

    def heading(self, statistic: Statistic) -> str:
        """Return the heading of a column of a statistic, for people."""
        return f"{statistic} {self.title}" if self.form == "number" and not self.table else self.title
