"""Declaration of metrics: name, unit, direction, summary statistics, display and success criteria.

A metric is declared once, at the function that computes it. Records, tables, sweeps and reports use the declaration.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from fedsim.core.settings import Config

USUAL = "identified"  # default metric of success; examples without it use their own deciding metric

Over = Literal["item", "update", "round", "finding"]
Statistic = Literal["mean", "median", "share"]
Form = Literal["number", "percent", "flag"]


class Metric(Config):
    """A metric. Defaults are omitted when it is serialised.

    Attributes:
        name: name in scores and records.
        title: readable name, in headings and sentences.
        meaning: explanation in one sentence, for readers of a table.
        over: measured object: an attacked example, an attacked update, the model after a round, or a question's
            finding.
        unit: unit of a number, for example ``dB``.
        form: a number, a share that is displayed in per cent, or a flag, which is 1 for yes and 0 for no.
        digits: displayed decimal places.
        statistics: summary statistics by their name in summaries and expected figures: mean, median, or the share of
            flags with Wilson's interval. The first is displayed.
        limits: smallest and largest possible value, if any.
        worst: value of an example without a guess.
        noun: name of an example with this metric.
        decides: whether `scoring.metric` may name it.
        threshold: an example beyond it is a success, if `scoring.metric` is unset and the example is not identified;
            None: the metric defines no success.
        verdict: outcome word of a success by this metric.
        chance: upper bound of the share of blind guesses beyond `threshold`.
        is_image_metric: whether its function maps pixels of guesses and of originals, (B, C, H, W), to (B,); then all
            guessed images have it, and reports give its value for a guess without any update.
        leads: whether it orders attacks of equal success and is the objective of tuning, if `scoring.metric` is not a
            metric of the examples.
        spread: whether figures show its whole distribution.
        steps: thresholds for which tables count the examples above.
        shown: whether displayed tables contain it.
        compared: whether expected figures contain its first statistic, unless another metric is equivalent.
        is_success_count: whether it counts successes, so that a unit may change between processors by rounding.
        column: column name in tables of examples; empty for its own name.
        tables: tables of examples that contain it: all, only that of a run, or none.
        table: title of a separate table of several metrics; empty: the table of attacks contains it.
        by: another metric of the same examples; this metric is grouped by its value too; empty: none.
        ranges: groups of that value, (exclusive lower, inclusive upper) bounds.
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
    is_image_metric: bool = False
    leads: bool = False
    spread: bool = False
    steps: tuple[float, ...] = ()
    shown: bool = True
    compared: bool = True
    is_success_count: bool = False
    column: str = ""
    tables: Literal["all", "run", "none"] = "all"
    table: str = ""
    by: str = ""
    ranges: tuple[tuple[float, float], ...] = ()

    @model_validator(mode="after")
    def _check_round(self) -> Self:
        if self.over == "round" and self.statistics:
            raise ValueError("a metric of a round has a single value per round: leave 'statistics' out")
        return self

    @model_validator(mode="after")
    def _check_pictures(self) -> Self:
        if self.is_image_metric and self.worst is None:
            raise ValueError("a metric of pictures scores guesses that are none: say by worst which value they have")
        return self

    @model_serializer(mode="wrap")
    def _drop_defaults(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in fields(self).items() if name in self.model_fields_set}

    @property
    def column_name(self) -> str:
        """Its column name in tables of examples."""
        return self.column or self.name

    @property
    def scale(self) -> float:
        """Factor from the value to the displayed number."""
        return 1.0 if self.form == "number" else 100.0

    @property
    def suffix(self) -> str:
        """Suffix of the displayed number."""
        return "%" if self.form != "number" else f" {self.unit}" if self.unit else ""

    @property
    def sign(self) -> float:
        """1 if higher is better, else -1."""
        return 1.0 if self.better == "higher" else -1.0

    def format(self, value: float) -> str:
        """Return a value for display, with its unit."""
        return f"{value * self.scale:.{self.digits}f}{self.suffix}"

    def tell(self, value: float) -> str:
        """Return a value for display, with its unit or else its title."""
        return self.format(value) if self.unit else f"{self.title} {self.format(value)}"

    def plain(self, value: float) -> float | bool:
        """Return a value as stored in tables."""
        return bool(value) if self.form == "flag" else value

    def is_beyond(self, value: float, threshold: float) -> bool:
        """Return whether a value is better than a threshold."""
        return self.sign * value > self.sign * threshold

    def heading(self, statistic: Statistic) -> str:
        """Return the column heading of a statistic, for display."""
        return f"{statistic} {self.title}" if self.form == "number" and not self.table else self.title
