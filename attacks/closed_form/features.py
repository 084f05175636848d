"""closed-form-features: recover a row of a table from the per-feature parameters of its tokens.

Idea: the token of a feature is a sum of its columns' vectors, z_c w_c, and its own bias. Both receive the token's
    gradient, for any attention and dropout that follow. Their ratio is z_c: a number, or the 0 or 1 of a category.
Equation: z_c = <dw_c, db_f> / |db_f|^2 for each column c of feature f; a category is its largest column.
Assumes: honest-but-curious server, the gradient of a single row; a model with a token and a bias for each feature.
Recovers: the exact row and its label.
Fails: several rows, whose tokens are summed (refused); noise, which hides numbers before it hides categories; a token
    that dropout cuts off from the class token in every block.
Source: this project's, of the tokens of Gorishniy et al. 2021, arXiv 2106.11959, section 3.1.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple, final

import torch

from attacks.core.gradient_distance import doubts, may_be_exact, verdict
from attacks.core.outlooks import outlook_of
from attacks.core.preconditions import one_gradient_only
from attacks.core.results import no_guess
from attacks.core.targets.reading import label_guess
from attacks.core.tolerances import EXACT, LEAST
from fedsim.core.hooks import CostEstimate, Effort, LabelFreeAttack, Tables
from fedsim.core.nets.feature_tokens import FeatureTokens
from fedsim.core.nets.table_columns import likeliest_values
from fedsim.core.registry import attack
from fedsim.core.types import Config, Knowledge, Observation, OnStep, Reconstruction, Step


class _Tokens(NamedTuple):
    name: str
    layer: FeatureTokens


@final
@attack(
    "closed-form-features",
    summary="exact table row from the gradients of its feature tokens; a single row",
    tier="core",
    related="2106.11959",
)
class ClosedFormFeatures(LabelFreeAttack[Config]):
    """Divides the gradient of each column's vector by the gradient of its feature's bias."""

    effort: ClassVar[Effort] = "algebra"
    needs: ClassVar[frozenset[Knowledge]] = frozenset({"input-statistics"})
    example: ClassVar[Tables] = {
        "data": {"name": "affairs-survey"},
        "task": "tabular",
        "model": {"name": "ft-transformer", "width": 16, "heads": 2, "blocks": 1, "hidden": 16, "dropout": 0.25},
        "federation": {"batch_size": 1},
    }

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse several steps or rows, hidden tensors, and models without feature tokens."""
        if (observation.batch_size or 1) > 1:
            return f"each bias sums the tokens of {observation.batch_size} rows; the closed form needs a single row"
        tokens = _tokens(observation)
        if tokens is None:
            return "no layer makes a token of each feature of a row"
        hidden = [part for part in ("weight", "bias") if f"{tokens.name}.{part}" not in observation.update.tensors]
        if hidden:
            return f"the gradient of '{tokens.name}.{hidden[0]}' is not shared"
        return one_gradient_only(observation)

    def outlook(self, observation: Observation) -> CostEstimate:
        """Expect a few gradients: one division, then a comparison."""
        return outlook_of(observation, 4.0, 0.95, "each feature's bias divides out of its vector's gradient")

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Divide the gradients, and round categories."""
        tokens = _tokens(observation)
        assert tokens is not None
        weight, bias = (observation.update.tensors[f"{tokens.name}.{part}"].double() for part in ("weight", "bias"))
        of_column = tokens.layer.belongs.double() @ bias  # (columns, width)
        sizes = of_column.square().sum(1)
        if not bool(sizes.all()):
            return no_guess(observation, f"column {int(sizes.argmin())} has no gradient: dropout cuts its token off")
        plain = (weight * of_column).sum(1) / sizes
        residual = float((weight - plain[:, None] * of_column).norm() / weight.norm().clamp_min(LEAST))
        normalised = (plain - tokens.layer.shift.double()) / tokens.layer.scale.double()
        row = likeliest_values(normalised, observation.spec).to(next(observation.model.parameters()).dtype)[None]
        masks = None if observation.sites else ()
        labels, read = label_guess(observation, row, masks)
        objective, meaning = verdict(observation, row, labels, masks, (residual, "residual of the ratios"))
        on_step(Step(0, 1, 1, objective, objective, row))
        return Reconstruction.of(
            inputs=row,
            labels=labels,
            objective=objective,
            iterations=1,
            stop_reason="solved in closed form",
            notes=(f"layer '{tokens.name}' makes the tokens", meaning, *read, *doubts(observation)),
            diagnostics={"residual": residual},
            is_exact=residual < EXACT and may_be_exact(observation, objective),
        )


def _tokens(observation: Observation) -> _Tokens | None:
    layers = [_Tokens(n, layer) for n, layer in observation.model.named_modules() if isinstance(layer, FeatureTokens)]
    return layers[0] if len(layers) == 1 else None
