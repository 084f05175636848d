"""Success rule of an audit's examples, in words."""

from __future__ import annotations

from fedsim.audit.record import AuditRecord
from fedsim.core import registry
from fedsim.core.metric import Metric


def metrics_of(noun: str) -> list[Metric]:
    """Return the item metrics of examples with this noun."""
    return [metric for metric in registry.every_metric().values() if metric.over == "item" and metric.noun == noun]


def verdict_of(record: AuditRecord) -> str:
    """Return the word for a successful example, such as "identified" or "exact"."""
    return record.plan.scoring.rule.verdict(_values(record))


def rule(record: AuditRecord) -> str:
    """Return the verdict with its rule, for a heading: ``identified``, or ``readable (SSIM > 0.5)``."""
    word, in_words = verdict_of(record), record.plan.scoring.rule.format_rule(_values(record))
    return word if word == in_words else f"{word} ({in_words})"


def _values(record: AuditRecord) -> dict[str, float]:
    return dict.fromkeys((metric.name for metric in metrics_of(record.noun)), 0.0)
