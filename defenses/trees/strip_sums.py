"""strip-sums: send trees without covers, gains and inner weights.

Idea: a prediction needs only thresholds and leaf values; the rest reveals the number of rows of a leaf.
Equation: sum_hessian = loss_changes = base_weights = 0 in every node.
Assumes: the client strips the model before it sends it. xgboost can still load and continue it.
Protects: counts and label sums; nothing else reveals the number of rows of a leaf.
Fails: thresholds stay values of rows, and the base score stays the mean of the labels unless it is fixed.
Source: this project.
"""

from __future__ import annotations

from typing import Any, final

from fedsim.core.registry import defense
from fedsim.core.types import Config
from fedsim.questions.trees.hooks import TreeDefense


class StripSumsConfig(Config):
    """Settings of strip-sums."""


@final
@defense("strip-sums", summary="trees are sent without covers and gains, which predictions do not need", tier="core")
class StripSums(TreeDefense[StripSumsConfig]):
    """Zeroes the values that predictions do not need."""

    def protect_model(self, model: dict[str, Any]) -> dict[str, Any]:
        """Return the model without its sums."""
        for tree in model["learner"]["gradient_booster"]["model"]["trees"]:
            for name in ("sum_hessian", "loss_changes", "base_weights"):
                tree[name] = [0.0] * len(tree[name])
        return model
