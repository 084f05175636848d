"""Success rule: the metric and threshold by which an example counts as recovered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.core.metric import USUAL, Metric
from fedsim.record import ItemScore

LEVELS = ("exact", "readable", "identified")  # verdicts on a picture, the strongest first
_RECOVERED = "recovered"  # verdict by a threshold below that of the metric itself


@dataclass(frozen=True)
class Rule:
    """Success rule of a scenario: metric and threshold. With the default metric, examples without it use their own.

    Attributes:
        metric: name of the deciding metric.
        threshold: an example beyond it is a success.
        metrics_by_name: declarations of metrics, by name.
    """

    metric: str
    threshold: float
    metrics_by_name: Mapping[str, Metric]

    @classmethod
    def of(cls, metric: str, threshold: float) -> Rule:
        """Return a rule over all registered metrics."""
        return cls(metric, threshold, registry.every_metric())

    def decides(self, values: Mapping[str, float]) -> tuple[Metric, float]:
        """Return the metric that decides about an example with these values, and its threshold.

        Raises:
            FedsimError: the example has no deciding metric.
        """
        if self.metric in values or not values:
            return self.metrics_by_name[self.metric], self.threshold
        for name in values if self.metric == USUAL else ():
            metric = self.metrics_by_name[name]
            if metric.threshold is not None:
                return metric, metric.threshold
        raise FedsimError(
            f"scoring.metric is '{self.metric}', but the guesses have {', '.join(values)}. Set "
            "scoring.metric to a metric of this list and scoring.threshold to its value for "
            "recovery."
        )

    def has_succeeded(self, item: ItemScore) -> bool:
        """Return whether an example counts as recovered."""
        metric, threshold = self.decides(item.values)
        return metric.is_beyond(item.values[metric.name], threshold)

    def verdict(self, values: Mapping[str, float]) -> str:
        """Return the word for an example with these values that is a success: that of the metric that decides.

        It is "recovered" where the user's threshold is below the metric's own: SSIM above 0.3 is not yet readable.
        """
        metric, threshold = self.decides(values)
        is_lower = metric.threshold is not None and metric.is_beyond(metric.threshold, threshold)
        return _RECOVERED if is_lower else metric.verdict

    def level(self, item: ItemScore) -> str:
        """Return the strongest of `LEVELS` that was measured of a success, else its verdict; empty for no success."""
        if not self.has_succeeded(item):
            return ""
        measured = {metric.verdict for metric in self._passed_metrics(item)}
        return next((level for level in LEVELS if level in measured), self.verdict(item.values))

    def _passed_metrics(self, item: ItemScore) -> Iterator[Metric]:
        """Yield the metrics by whose own threshold an example is a success; a flag's is one half."""
        for name, value in item.values.items():
            metric = self.metrics_by_name[name]
            limit = 0.5 if metric.threshold is None and metric.form == "flag" else metric.threshold
            if limit is not None and metric.is_beyond(value, limit):
                yield metric

    def is_proof(self, item: ItemScore) -> bool:
        """Return whether an example is a success by a metric with chance level 0."""
        limits = [
            self.decides(item.values),
            *((self.metrics_by_name[n], self.metrics_by_name[n].threshold) for n in item.values),
        ]
        return any(
            limit is not None and not metric.chance and metric.is_beyond(item.values[metric.name], limit)
            for metric, limit in limits
        )

    def goal(self, values: Mapping[str, float]) -> Metric:
        """Return the metric of an example that a stronger attack improves."""
        metric = self.metrics_by_name[self.metric]
        if metric.form != "flag" and (self.metric in values or not values):
            return metric
        return next(
            (self.metrics_by_name[name] for name in values if self.metrics_by_name[name].leads), self.decides(values)[0]
        )

    def format_rule(self, values: Mapping[str, float]) -> str:
        """Return the rule for examples with these values as text: ``SSIM > 0.5``."""
        metric, threshold = self.decides(values)
        if metric.form == "flag":
            return metric.title
        sign = ">" if metric.better == "higher" else "<"
        unit = f" {metric.unit}" if metric.unit else ""
        return f"{metric.title} {sign} {threshold:g}{unit}"
