"""How well prices are foretold, and how near a guessed row is to its original: both in the units of the table.

The second is what an attack is judged by; it says nothing about rows that nobody guessed.
"""

import torch
from torch import Tensor

from fedsim.core.registry import metric


@metric(
    "price_error",
    title="price error",
    summary="root mean squared error of prices on the test rows",
    over="round",
    better="lower",
    digits=3,
    limits=(0.0, None),
)
def price_error(guesses: Tensor, prices: Tensor) -> float:
    """Return the root mean squared error of N prices."""
    return float((guesses - prices).square().mean().sqrt())


@metric(
    "row_error",
    title="row error",
    summary="mean absolute error of a guessed row over its columns",
    over="item",
    better="lower",
    digits=3,
    statistics={"row_error_median": "median"},
    limits=(0.0, None),
    worst=10.0,
    noun="row",
    decides=True,
    threshold=0.05,
    leads=True,
)
def row_error(guesses: Tensor, rows: Tensor) -> Tensor:
    """Return the mean absolute error of each guessed row, shape (N,)."""
    return (torch.as_tensor(guesses) - rows).abs().mean(1)
