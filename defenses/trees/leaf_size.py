"""leaf-size: grow no leaf with fewer rows than k.

Idea: the values of a leaf are then aggregates of at least k rows.
Equation: xgboost keeps H >= min_child_weight; h <= 1 for squared error and h <= 1/4 for log loss, so that
    min_child_weight = k and k/4 each give N >= H / max h >= k.
Assumes: the client trains with it.
Protects: labels of single rows, which small leaves reveal.
Fails: counts stay exact, and thresholds stay values of rows.
Source: xgboost's parameter min_child_weight; the bound by k is this project's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from pydantic import Field

from fedsim.core.registry import defense
from fedsim.core.types import Config
from fedsim.questions.trees.hooks import TreeDefense
from fedsim.questions.trees.types import Objective


class LeafSizeConfig(Config):
    """Settings of leaf-size."""

    rows: int = Field(default=5, ge=1, description="k: the fewest rows of a leaf")


@final
@defense("leaf-size", summary="no leaf of a sent tree has fewer than k rows", tier="core")
class LeafSize(TreeDefense[LeafSizeConfig]):
    """Sets the minimal cover of a leaf."""

    def parameters(self, objective: Objective) -> Mapping[str, Any]:
        """Return the minimal cover that implies at least k rows."""
        return {"min_child_weight": self.config.rows * (0.25 if objective == "binary:logistic" else 1.0)}
