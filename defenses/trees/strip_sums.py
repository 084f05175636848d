"""strip-sums: send trees without covers, gains and inner weights.

Idea: a prediction needs thresholds and leaf values alone; the rest tells how many rows a leaf has.
Equation: sum_hessian = loss_changes = base_weights = 0 in every node.
Assumes: the client strips the model before it sends it. xgboost still reads and continues it.
Protects: counts and label sums; nothing else says how many rows stand behind a leaf value.
Fails: thresholds stay values of rows, and the base score stays the mean of the labels unless it is fixed.
Source: this project.
"""

from __future__ import annotations

from typing import Any, final

from fedsim.core.hooks.trees import TreeDefense
from fedsim.core.registry import evidence_defense
from fedsim.core.types import Config


class StripSumsConfig(Config):
    """Settings of strip-sums."""


@final
@evidence_defense("strip-sums", summary="trees are sent without covers and gains, which predictions do not need")
class StripSums(TreeDefense[StripSumsConfig]):
    """Sets to zero what no prediction needs."""

    def cover(self, model: dict[str, Any]) -> dict[str, Any]:
        """Return the model without its sums."""
        for tree in model["learner"]["gradient_booster"]["model"]["trees"]:
            for name in ("sum_hessian", "loss_changes", "base_weights"):
                tree[name] = [0.0] * len(tree[name])
        return model
