"""A made-up table of houses: five columns with mean 0 and variance 1, and prices that follow from them, with noise.

    price = w . x + 0.1 e,  with e standard normal and fixed weights w

The seed decides the table; nothing is read from a file or the network.
"""

import torch
from pydantic import Field

from fedsim.core import seeding
from fedsim.core.registry import dataset
from fedsim.core.types import Batch, Config, Dataset, InputSpec

COLUMNS = ("area", "rooms", "age", "distance", "floor")
_WEIGHTS = (1.0, 0.5, -0.7, -0.4, 0.1)


class HousesConfig(Config):
    """Settings of houses."""

    rows: int = Field(default=120, ge=8, description="rows of the table, a quarter of them for testing")
    seed: int = Field(default=0, ge=0, description="of the table")


@dataset("houses", summary="a table of houses and their prices, made from a seed")
def houses(config: HousesConfig) -> Dataset:
    """Make the table."""
    generator = seeding.generator(config.seed, "houses")
    rows = torch.randn(config.rows, len(COLUMNS), generator=generator)
    prices = rows @ torch.tensor(_WEIGHTS) + 0.1 * torch.randn(config.rows, generator=generator)
    tested = config.rows // 4
    train, test = Batch(rows[tested:], prices[tested:]), Batch(rows[:tested], prices[:tested])
    return Dataset(train, test, InputSpec((len(COLUMNS),), 1, (), ()), ("price",), task="house-price")
