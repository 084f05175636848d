"""Grids of handwritten digits and questions about them, generated from MNIST-5k or from scikit-learn's digits.

No paper. An image has 4 x 4 cells of 14 x 14 pixels, 3 to 6 of them with a digit, the others with noise. Questions
concern a cell, the presence, count or position of a digit, or all digits; every word is a token. Training and test
images share no digit. Leakage: the digits with their cells, and the question, both exactly known.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fedsim.core import registry, seeding
from fedsim.core.registry import dataset
from fedsim.core.types import Attribute, Batch, Config, Dataset, InputSpec
from fedsim.data._grid_questions import Stock, answer_places, ask, draw_digits, draw_kinds, paint
from fedsim.data._grid_words import CELL_WORDS, DIGITS, KINDS, MOST_COUNTED, GridWords, Kind, cell_name

_USERS = 40  # users per kind of question, or per digit
Source = Literal["mnist5k", "digits"]


class DigitGridsConfig(Config):
    """Settings of digit-grids."""

    source: Source = Field(default="mnist5k", description="data set of the digits")
    cells: int = Field(default=4, ge=2, le=8, description="cells a side; a cell has 14 x 14 pixels")
    min_digits: int = Field(default=3, ge=1, description="cells with a digit, at least")
    max_digits: int = Field(default=6, ge=1, le=MOST_COUNTED, description="cells with a digit, at most")
    palette: float = Field(
        default=0.5, ge=0, le=1, description="share of images with digits of 1 to 6 classes, so that some repeat"
    )
    position: float = Field(default=0.5, ge=0, description="weight of questions for a cell")
    presence: float = Field(default=0.3, ge=0, description="weight of questions whether a digit occurs")
    counting: float = Field(default=0.2, ge=0, description="weight of questions how often a digit occurs")
    where: float = Field(default=0.0, ge=0, description="weight of questions where a digit is that occurs once")
    list: float = Field(default=0.0, ge=0, description="weight of questions for all digits")
    owners: Literal["question", "digit"] = Field(
        default="question",
        description="property that a user's examples share, for clients that differ by user: the kind of "
        "question, or the most frequent digit",
    )
    train: int = Field(default=2000, ge=1, description="number of training examples")
    test: int = Field(default=500, ge=1, description="number of test examples")
    seed: int = Field(default=0, ge=0, description="of images and questions; not the scenario's seed")

    @property
    def mix(self) -> dict[Kind, float]:
        """The weight of each kind of question."""
        return {
            "position": self.position,
            "presence": self.presence,
            "counting": self.counting,
            "where": self.where,
            "list": self.list,
        }

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_digits > self.max_digits:
            raise ValueError(
                f"min_digits is {self.min_digits} and max_digits {self.max_digits}: expected at most as many."
            )
        if self.max_digits >= self.cells**2:
            raise ValueError(
                f"max_digits is {self.max_digits}: expected fewer than the {self.cells**2} cells, so that some "
                "stay empty."
            )
        if not sum(self.mix.values()):
            raise ValueError(
                "all kinds of questions have weight 0: set a weight above 0 for position, presence or counting."
            )
        return self


@dataset("digit-grids", summary="grids of handwritten digits, and questions about them", extra="data")
def digit_grids(config: DigitGridsConfig) -> Dataset:
    """Generate images, questions and answers.

    Raises:
        MissingExtra: the package with the digits is not installed.
    """
    words = GridWords(config.cells)
    stock = stocks(config.source)
    train, digits = draw_grids(config, config.train, stock[0], seeding.generator(config.seed, "digit grids train"))
    test, digits_of_test = draw_grids(config, config.test, stock[1], seeding.generator(config.seed, "digit grids test"))
    spec = InputSpec(tuple(train.inputs.shape[1:]), len(words.words), (0.0,), (1.0,))
    if config.owners == "digit":
        shared = (digits[:, :, None] == torch.arange(DIGITS)).sum(1).argmax(1)
    else:
        shared = torch.tensor(
            [KINDS.index(words.kind(question)) for question in train.extra_inputs["question"].tolist()]
        )
    users = shared * _USERS + torch.arange(len(shared)) % _USERS
    return Dataset(
        train,
        test,
        spec,
        words.words,
        users=users,
        tokenizer=words,
        attributes=_attributes(config, (train, digits), (test, digits_of_test)),
        task="visual-question-answering",
    )


def _attributes(config: DigitGridsConfig, *parts: tuple[Batch, Tensor]) -> dict[str, Attribute]:
    """Return the kind of the question, whether the image has more digits than the mid-range, and each cell's word."""
    words, middle = GridWords(config.cells), (config.min_digits + config.max_digits) / 2
    kinds = [
        torch.tensor([KINDS.index(words.kind(question)) for question in batch.extra_inputs["question"].tolist()])
        for batch, _ in parts
    ]
    filled = [((digits >= 0).sum(1) > middle).long() for _, digits in parts]
    cells = {
        cell_name(*divmod(cell, config.cells)): Attribute(CELL_WORDS, *(digits[:, cell] + 1 for _, digits in parts))
        for cell in range(config.cells**2)
    }
    return {"kind": Attribute(KINDS, *kinds), "filling": Attribute(("sparse", "dense"), *filled), **cells}


def draw_grids(config: DigitGridsConfig, count: int, stock: Stock, generator: torch.Generator) -> tuple[Batch, Tensor]:
    """Sample examples, and the digits (count, cells * cells) of their grids, -1 for an empty cell."""
    words = GridWords(config.cells)
    digits = draw_digits(count, config.cells, (config.min_digits, config.max_digits), config.palette, generator)
    grid_questions = ask(digits, words, draw_kinds(count, config.mix, generator), answer_places(config.mix), generator)
    pictures = paint(digits, config.cells, stock, generator)
    return Batch(pictures, grid_questions.answers, {"question": grid_questions.questions}), digits


@lru_cache(maxsize=2)
def stocks(source: Source) -> tuple[Stock, Stock]:
    """Return the disjoint digits of training and of test images.

    Raises:
        MissingExtra: the package with the digits is not installed.
    """
    method = registry.get("dataset", source)
    source_data = method.make(method.config())
    mean, std = source_data.spec.mean[0], source_data.spec.std[0]
    train, test = (
        Stock.of((part.inputs * std + mean).clamp(0, 1), part.labels) for part in (source_data.train, source_data.test)
    )
    return train, test
