"""Groups of examples for a comparison of risk: classes, a column of the loader, or the values of a user function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from fedsim.audit.foreign import reason
from fedsim.audit.record import GROUPS, AuditRecord
from fedsim.core.errors import FedsimError, did_you_mean
from fedsim.core.examples import keys
from fedsim.core.nets.losses import are_classes
from fedsim.core.types import Batch
from fedsim.metrics.groups import GroupRisk, rates
from fedsim.record import Finding, ItemScore

Grouping = str | Callable[[Any], Sequence[Any]]  # column name, or a function from a loader item to values

CLASS = "class"
_MOST = 10  # largest number of distinct values that form groups; more are cut at their quartiles
_OTHER = "other"


@dataclass(frozen=True)
class ExampleGroups:
    """Assignment of examples to groups.

    Attributes:
        name: display name of the grouping.
        of: function from a batch of the subject's examples to each example's group; empty without groups.
    """

    name: str
    of: Callable[[Batch], list[str]]


def class_name(label: int) -> str:
    """Return the group name of a class."""
    return f"{CLASS} {label}"


def _classes(batch: Batch) -> list[str]:
    return [class_name(int(label)) for label in batch.labels] if are_classes(batch.labels) else []


CLASSES = ExampleGroups(CLASS, _classes)


def compare(groups: str, label: str, metric: str, risks: Mapping[str, GroupRisk]) -> tuple[Finding, ...]:
    """Return a finding per group.

    Args:
        groups: name of the grouping.
        label: display name of the measured risk.
        metric: name of the metric.
        risks: risk by group.
    """
    return tuple(
        Finding(
            question=GROUPS,
            label=label,
            scope={"by": groups, "group": name},
            role="context",
            metric=metric,
            value=risk.value,
            p_value=risk.p,
        )
        for name, risk in risks.items()
    )


def compare_recovered(record: AuditRecord, groups: ExampleGroups) -> tuple[Finding, ...]:
    """Return a finding per group: its share of examples recovered from updates of the undefended client."""
    scoring = record.plan.scoring
    items = [item for arm in record.client for victim in arm.victims for item in victim.scores]
    names = [_class_of(item) if groups is CLASSES else item.group for item in items]
    hits = [
        (name, scoring.rule.has_succeeded(item)) for name, item in zip(names, items, strict=True) if name is not None
    ]
    if not hits:
        return ()
    return compare(groups.name, f"{record.noun}s recovered", "success", rates(hits, scoring.confidence))


def _class_of(item: ItemScore) -> str | None:
    return None if item.label is None else class_name(item.label)


def values_of(group: Grouping, item: Any, batch: Batch, subject: str) -> list[Any]:
    """Return the group value of each example of a loader item.

    Raises:
        FedsimError: the column does not exist, the function fails, or the number of values differs from the number of
            examples.
    """
    column = _call_grouping(group, item, subject) if callable(group) else _column(group, item, batch, subject)
    values: list[Any] = column.tolist() if isinstance(column, Tensor | np.ndarray) else list(column)
    if len(values) != len(batch) or any(isinstance(value, list) for value in values):
        raise FedsimError(
            f"{subject} has {len(values)} values to group {len(batch)} examples by, expected a value for each example."
        )
    return values


def _call_grouping(group: Callable[[Any], Sequence[Any]], item: Any, column: str) -> Sequence[Any]:
    try:
        return group(item)
    except Exception as error:
        raise FedsimError(f"the function that groups {column} failed: {reason(error)}.") from error


def _column(name: str, item: Any, batch: Batch, column: str) -> Sequence[Any] | Tensor:
    columns = cast("Mapping[str, Any]", item) if isinstance(item, Mapping) else {}
    if name in columns:
        return columns[name]
    is_table = batch.inputs.is_floating_point() and batch.inputs.ndim == 2  # noqa: PLR2004 - rows and columns
    if is_table and name.isdecimal() and int(name) < batch.inputs.shape[1]:
        return batch.inputs[:, int(name)]
    columns_text = (
        f"a table's columns are 0 to {batch.inputs.shape[1] - 1}" if is_table else "it yields no mapping with it"
    )
    close = did_you_mean(name, columns) if columns else f" Here {columns_text}."
    raise FedsimError(f"{column} has no column '{name}' to group by.{close}")


def group_examples(group: Grouping, values: Sequence[Any], examples: Batch) -> ExampleGroups:
    """Return the groups of a subject's examples, looked up by inputs and label.

    Args:
        group: the user's grouping.
        values: one value per example.
        examples: all examples, as the audit uses them.
    """
    name = group if isinstance(group, str) else getattr(group, "__name__", "group").replace("<lambda>", "group")
    name = f"column {name}" if name.isdecimal() else name
    known = dict(zip(keys(examples), _names(name, values), strict=True))
    return ExampleGroups(name, partial(_look_up, known))


def _look_up(known: Mapping[tuple[bytes, ...], str], batch: Batch) -> list[str]:
    return [known.get(key, _OTHER) for key in keys(batch)]


def _names(name: str, values: Sequence[Any]) -> list[str]:
    """Return the group name of each value; numbers with many distinct values are cut at their quartiles."""
    is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if not is_number or len(set(values)) <= _MOST:
        return [f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for value in values]
    edges = torch.tensor(values, dtype=torch.float64).quantile(torch.linspace(0, 1, 5, dtype=torch.float64)).tolist()
    quarters = [f"{name}, {low:.3g} to {high:.3g}" for low, high in pairwise(edges)]
    return [quarters[sum(value > edge for edge in edges[1:-1])] for value in values]
