"""tabular-relaxation: match the gradient by relaxed rows of a table, with categories as probabilities of their values.

Idea: a table row is not a free vector. The search optimises the probabilities of each category's values, and each
    number's position between its public extremes, so that every intermediate guess is nearly a valid row.
Equation: min over u of 1 - cos(g(x(u)), g*), x = (z(u) - mean) / std, z the softmax of u over the columns of a category
    and its sigmoid elsewhere. The best of several starts counts; each category then becomes its most likely value.
Assumes: honest-but-curious server, a single gradient, public means and standard deviations; labels granted or inferred.
Recovers: rows and labels, also of batches beyond the rank of their columns; dropout masks of known rates.
Fails: large batches, of which most rows are wrong; tables without categories, where a box is as good (refused).
Source: Vero, Balunovic, Dimitrov, Vechev 2023, arXiv 2210.01785, and its public code (relaxation).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.core.matching.attack import MaskSearchAttack, MaskSearchConfig
from attacks.core.matching.descent import RestartResult, ScheduleName, VictimGroup
from attacks.core.matching.optimizers import Sign
from attacks.core.matching.substitution import Substitution
from attacks.core.matching.terms import PriorChoice, prior_settings
from attacks.core.matching.unknown_masks import FirstMasks
from attacks.core.tolerances import TINY
from fedsim.core.hooks import Effort, Tables
from fedsim.core.nets.table_columns import categories_of, likeliest_values
from fedsim.core.registry import attack
from fedsim.core.types import InputSpec, Knowledge, Observation, Reconstruction, change_default

_FEW_STARTS = 4


class TabularRelaxationConfig(MaskSearchConfig):
    """Settings of the search. `learning_rate` is the step of u; `boxed` has no effect: sigmoids keep the range."""

    max_iterations: int = change_default(MaskSearchConfig, max_iterations=1500)
    learning_rate: float = Field(default=0.15, gt=0, description="Adam's step for u and for masks")
    sign: Sign = Field(
        default="soft", description="hard: only the sign of u's gradient; soft: tanh(g / its RMS); off: as it is"
    )
    priors: tuple[PriorChoice, ...] = prior_settings({})
    schedule: ScheduleName = change_default(MaskSearchConfig, schedule="cosine")
    threshold: float = change_default(MaskSearchConfig, threshold=1e-9)
    restarts: int = change_default(MaskSearchConfig, restarts=8)


@final
@attack(
    "tabular-relaxation",
    summary="gradient matching by relaxed rows of a table (TabLeak)",
    tier="core",
    paper="2210.01785",
    fidelity="variant",
    deviates="best start, not pooled; soft, larger, shrinking steps; masks are unknowns too",
    paper_steps=(
        ("softmax per category, sigmoid per number", "RelaxedTable.rows"),
        ("entropy of the categories", "RelaxedTable.entropy"),
        ("pooling of several starts", ""),
    ),
    aliases=("tableak",),
)
class TabularRelaxation(MaskSearchAttack[TabularRelaxationConfig]):
    """Descends on logits of categories and of numbers."""

    effort: ClassVar[Effort] = "descent"
    first_masks: ClassVar[FirstMasks] = "mean"
    needs: ClassVar[frozenset[Knowledge]] = frozenset({"input-statistics"})
    example: ClassVar[Tables] = {
        "data": {"name": "affairs-survey"},
        "task": "tabular",
        "model": {"name": "mlp", "width": 32, "depth": 1, "dropout": 0.0, "bias": True},
        "federation": {"batch_size": 2},
    }

    @classmethod
    def settings_for_budget(cls, gradients: int) -> dict[str, Any]:
        """Return a few starts, and the number of iterations that the budget allows for each."""
        return {"max_iterations": max(1, gradients // _FEW_STARTS), "restarts": _FEW_STARTS}

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse examples that are not table rows with categories."""
        spec = observation.spec
        if len(spec.shape) != 1 or spec.vocabulary is not None:
            return f"it searches rows of a table, and an example has shape {tuple(spec.shape)}"
        if not categories_of(spec.mean, spec.std):
            return "no column is 0 or 1 in every row; numbers alone are searched as well by inverting-gradients"
        return super().not_applicable(observation)

    def estimate_success(self, observation: Observation) -> tuple[float, str]:
        """Expect more than of other descents, which do not use that a category has one value."""
        return 0.4, "each category has one value"

    def run_search(self, victims: VictimGroup) -> tuple[list[RestartResult], str]:
        """Search logits instead of rows, and return the rows of each start's best logits."""
        descent = self.descent(victims, self.plan(victims))
        table = RelaxedTable.of(victims.observations[0].spec)
        logits = Substitution(table.rows, descent.search.first)
        return logits.substitute_inputs(self.run_descent(logits.apply(descent))), descent.comparison.name

    def report(
        self, observation: Observation, rows: Sequence[RestartResult], labels: Tensor, path: str
    ) -> Reconstruction:
        """Return the best start, with each category as its most likely value, and the entropy of the categories."""
        guess, table = super().report(observation, rows, labels, path), RelaxedTable.of(observation.spec)
        diagnostics = {**guess.diagnostics, "mean entropy of categories": float(table.entropy(guess.inputs).mean())}
        return replace(guess, inputs=likeliest_values(guess.inputs, observation.spec), diagnostics=diagnostics)


@dataclass(frozen=True)
class RelaxedTable:
    """Rows of a table as functions of logits, one per column.

    Attributes:
        parts: groups of adjacent columns: their number, and whether they are the values of one category.
        mean: mean of every column on the scale with extremes 0 and 1.
        std: standard deviation of every column.
    """

    parts: tuple[tuple[int, bool], ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, spec: InputSpec) -> RelaxedTable:
        """Return the table that public statistics describe."""
        parts, end = list[tuple[int, bool]](), 0
        for category in categories_of(spec.mean, spec.std):
            if category[0] > end:
                parts.append((category[0] - end, False))
            parts.append((len(category), True))
            end = category[-1] + 1
        if len(spec.mean) > end:
            parts.append((len(spec.mean) - end, False))
        return cls(tuple(parts), tuple(spec.mean), tuple(spec.std))

    def rows(self, logits: Tensor, _victims: Sequence[int] = ()) -> Tensor:
        """Return normalised rows of logits (..., C)."""
        mean, std = self._scale(logits)
        plain = [_relax_logits(part, is_category) for part, is_category in self._split_columns(logits)]
        return (torch.cat(plain, -1) - mean) / std

    def entropy(self, rows: Tensor) -> Tensor:
        """Return the entropy of each category of rows (B, C), as a share of the largest possible entropy."""
        mean, std = self._scale(rows)
        categories = [part for part, is_category in self._split_columns(rows * std + mean) if is_category]
        shares = [_with_its_opposite(part).clamp(TINY, 1.0) for part in categories]
        return torch.stack([-(share * share.log()).sum(-1) / math.log(share.shape[-1]) for share in shares], -1)

    def _split_columns(self, values: Tensor) -> list[tuple[Tensor, bool]]:
        columns = values.split([count for count, _ in self.parts], -1)
        return [(part, is_category) for part, (_, is_category) in zip(columns, self.parts, strict=True)]

    @cached_property
    def _statistics(self) -> tuple[Tensor, Tensor]:
        return torch.tensor(self.mean, dtype=torch.float64), torch.tensor(self.std, dtype=torch.float64)

    def _scale(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = self._statistics
        return mean.to(like), std.to(like)


def _relax_logits(logits: Tensor, is_category: bool) -> Tensor:
    """Return probabilities of a category's values, or numbers in (0, 1); a single binary column is a number."""
    return logits.softmax(-1) if is_category and logits.shape[-1] > 1 else logits.sigmoid()


def _with_its_opposite(shares: Tensor) -> Tensor:
    """Return probabilities of all values of a category; a single binary column has two values."""
    return torch.cat([shares, 1.0 - shares], -1) if shares.shape[-1] == 1 else shares
