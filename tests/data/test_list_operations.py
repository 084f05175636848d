"""List operations: answers, prompts and examples that can be read back."""

import pytest
import torch
from pydantic import ValidationError

from fedsim.core import registry
from fedsim.core.types import Batch
from fedsim.data.list_operations import ListOperationsConfig, draw_lists, list_operations


def lists(seed: int = 0, count: int = 60, **settings: object) -> Batch:
    return draw_lists(ListOperationsConfig(**settings), count, torch.Generator().manual_seed(seed))  # type: ignore[arg-type]


def test_prompts_have_no_labels_and_answers_are_their_own() -> None:
    batch = lists()
    assert (batch.labels[:, :13] == -100).all()
    assert torch.equal(batch.labels[:, 13:], batch.inputs[:, 13:])
    assert batch.inputs.shape == (60, 21)


@pytest.mark.paper_step("list-operations", "list operations with exact judges")
def test_the_set_names_its_task_and_is_the_same_each_time() -> None:
    config = ListOperationsConfig(train=5, test=3)
    first, second = list_operations(config), list_operations(config)
    assert first.task == "masked-diffusion"
    assert registry.get("task", first.task).make(registry.get("task", first.task).config()).refuses(first) is None
    assert torch.equal(first.train.inputs, second.train.inputs)
    assert torch.equal(first.test.inputs, second.test.inputs)
    assert not torch.equal(lists(1).inputs, lists(2).inputs)
    assert first.tokenizer is not None
    assert first.spec.vocabulary == first.tokenizer.vocabulary <= 64


def test_one_named_twice_is_drawn_twice_as_often() -> None:
    assert first_two(lists(count=200, operations=("copy",))) == {"copy"}
    drawn = [own[1] for own in shown(lists(count=600, operations=("copy", "sort", "sort")))]
    assert 350 < drawn.count("sort") < 450  # 400, within four standard deviations of 11.5


def shown(batch: Batch) -> list[list[str]]:
    tokenizer = list_operations(ListOperationsConfig(train=1, test=1)).tokenizer
    assert tokenizer is not None
    return [tokenizer.decode(row).split() for row in batch.inputs.tolist()]


def first_two(batch: Batch) -> set[str]:
    return {own[1] for own in shown(batch)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"operations": ("copi",)}, "there is none 'copi'. Did you mean 'copy'?"),
        ({"shortest": 5, "longest": 4}, "shortest is 5 and longest 4"),
    ],
)
def test_settings_that_make_no_lists_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ListOperationsConfig(**settings)  # type: ignore[arg-type]
