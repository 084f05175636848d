"""Operations on short lists of letters: copy, reverse, sort, shuffle; insert, remove, replace a letter.

Source: the waiting-line tasks of ParallelBench (Kang et al. 2025, arXiv 2510.04767), over letters instead of names. An
example is a prompt of 13 tokens and an answer of 8 tokens; the prompt has no labels. For operations with many answers
a random answer is chosen for each example. Leakage: nothing, the lists are random.
"""

from __future__ import annotations

from typing import Self

import torch
from pydantic import Field, model_validator

from fedsim.core import seeding
from fedsim.core.errors import did_you_mean
from fedsim.core.nets.losses import IGNORED
from fedsim.core.registry import dataset
from fedsim.core.types import Batch, Config, Dataset, InputSpec
from fedsim.data._lists import OPERATIONS, ListTokenizer, Sample, draw_sample


class ListOperationsConfig(Config):
    """Settings of list-operations."""

    operations: tuple[str, ...] = Field(
        default=OPERATIONS, min_length=1, description="operations; a name listed twice is sampled twice as often"
    )
    shortest: int = Field(default=3, ge=2, description="letters of the shortest lists")
    longest: int = Field(default=6, ge=2, le=7, description="letters of the longest lists")
    train: int = Field(default=4000, ge=1, description="number of training examples")
    test: int = Field(default=500, ge=1, description="number of test examples")
    seed: int = Field(default=0, ge=0, description="of the lists; not the scenario's seed")

    @model_validator(mode="after")
    def _check(self) -> Self:
        unknown = [operation for operation in self.operations if operation not in OPERATIONS]
        if unknown:
            raise ValueError(f"operations: there is none '{unknown[0]}'.{did_you_mean(unknown[0], OPERATIONS)}")
        if self.shortest > self.longest:
            raise ValueError(f"shortest is {self.shortest} and longest {self.longest}: expected at most as many.")
        return self


@dataset(
    "list-operations",
    summary="operations on short lists of letters, for masked diffusion",
    paper="2510.04767",
    paper_steps=(
        ("list operations with exact judges", "list_operations"),
        ("bound by the total correlation", "fedsim.bench.theory.total_correlation"),
        ("bound over several steps", "fedsim.bench.theory.steps_correlation"),
        ("accuracy of ideal models by places a step", "fedsim.bench.theory.analyse"),
        ("strategies of unmasking, measured", "fedsim.bench.parallel.measure"),
        ("paraphrases, by a list of synonyms in place of models as judges", "fedsim.bench.rewordings.Paraphrase"),
        ("summaries, by the grammar in place of references", "fedsim.bench.rewordings.SummaryOfTwo"),
    ),
)
def list_operations(config: ListOperationsConfig) -> Dataset:
    """Generate the lists."""
    generator = seeding.generator(config.seed, "list operations")
    tokenizer = ListTokenizer()
    examples = tokenizer.prompt_length + tokenizer.answer_length
    return Dataset(
        train=draw_lists(config, config.train, generator),
        test=draw_lists(config, config.test, generator),
        spec=InputSpec((examples,), tokenizer.vocabulary, (), (), tokenizer.vocabulary, tokenizer.padding),
        class_names=("list",),
        tokenizer=tokenizer,
        task="masked-diffusion",
    )


def draw_lists(config: ListOperationsConfig, count: int, generator: torch.Generator) -> Batch:
    """Sample examples."""
    tokenizer = ListTokenizer()
    inputs = torch.empty(count, tokenizer.prompt_length + tokenizer.answer_length, dtype=torch.long)
    for row in range(count):
        sample = _draw_sample(config, generator)
        inputs[row] = torch.tensor([*tokenizer.prompt(sample), *tokenizer.answer(_one_answer(sample, generator))])
    labels = inputs.clone()
    labels[:, : tokenizer.prompt_length] = IGNORED
    return Batch(inputs, labels)


def _draw_sample(config: ListOperationsConfig, generator: torch.Generator) -> Sample:
    operation = config.operations[int(torch.randint(len(config.operations), (), generator=generator))]
    length = int(torch.randint(config.shortest, config.longest + 1, (), generator=generator))
    return draw_sample(operation, length, generator)


def _one_answer(sample: Sample, generator: torch.Generator) -> tuple[int, ...]:
    """Sample an answer, without enumerating the answers of a shuffle."""
    if sample.operation != "shuffle":
        known = list(sample.answers())
        return known[int(torch.randint(len(known), (), generator=generator))]
    while True:
        order: list[int] = torch.randperm(len(sample.items), generator=generator).tolist()
        shuffled = tuple(sample.items[place] for place in order)
        if shuffled != sample.items:
            return shuffled
