"""Survey of 6,366 married women from statsmodels; the label is whether they had an affair.

Source: Fair 1978, A Theory of Extramarital Affairs, Journal of Political Economy 86 (no arXiv id). Numbers: happiness
of the marriage, age, years married, children, religiousness, years of education. Categories: both occupations, one-hot.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from fedsim.core.registry import dataset
from fedsim.core.types import Batch, Config, Dataset
from fedsim.data._shipped import require_package_file
from fedsim.data._tables import one_hot, split_rows, standardise_table

_NUMBERS, _ANSWERS = 6, 8  # columns; the last two answers are the occupations, the next column is the label


class AffairsSurveyConfig(Config):
    """Settings of affairs-survey."""

    categories: Literal["occupations", "all"] = Field(
        default="occupations",
        description="answers that have a column of 0 and 1 for each value: both occupations, or all eight, since none "
        "has more than seven values",
    )
    test_fraction: float = Field(default=0.2, gt=0, lt=1, description="share of the rows for the test set")
    seed: int = Field(default=0, ge=0, description="seed of the rows' order; not the scenario's seed")


@dataset("affairs-survey", summary="6,366 answers of 6 numbers and 2 categories from statsmodels", extra="tabular")
def affairs_survey(config: AffairsSurveyConfig) -> Dataset:
    """Load the answers, each column with mean 0 and standard deviation 1 over the training rows.

    Raises:
        MissingExtra: statsmodels is not installed.
    """
    table = torch.from_numpy(np.loadtxt(_file(), delimiter=",", skiprows=1)).float()
    numbers = _NUMBERS if config.categories == "occupations" else 0
    categories = [one_hot(column) for column in table[:, numbers:_ANSWERS].unbind(1)]
    answers = Batch(torch.cat([table[:, :numbers], *categories], 1), (table[:, _ANSWERS] > 0).long())
    return standardise_table(*split_rows(answers, config.test_fraction, config.seed), ("no affair", "affair"))


def _file() -> Path:
    owner = "statsmodels, which holds the data set 'affairs-survey',"
    return require_package_file("statsmodels", "datasets/fair/fair.csv", owner, "pip install 'fedsim-privacy[tabular]'")
