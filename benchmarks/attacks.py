"""How long does an iteration of an attack that descends take, beside the published loop?

Beside it: a literal Dropout Inversion Attack (`benchmarks._literal_dia`). Seconds are those of the processor; ratios
are of runs that alternate.
"""

from __future__ import annotations

from functools import partial

from benchmarks import _descent_rows
from benchmarks._experiments import Budget, Cells, experiment


@experiment("attacks", minutes=5, page="benchmarks/attacks")
def attacks(budget: Budget) -> Cells:
    """Return a cell for each model, and one of restarts."""
    passes = 10 if budget.full else 5
    return {
        "MLP": partial(_descent_rows.iterations_of_mlp, passes),
        "small ViT": partial(_descent_rows.iterations_of_transformer, passes),
        "restarts": partial(_descent_rows.restarts, passes),
    }
