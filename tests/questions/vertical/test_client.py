"""A party answers twice a step, and keeps what it learned between two messages."""

from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, RecordDict

from fedsim.core.errors import FedsimError
from fedsim.questions.vertical.client import ROWS, STEP, cut, embed, pack_tensor, split_settings, unpack_tensor
from fedsim.scenario.world import World, build
from tests.questions.asking import scenario_of

ROW_NUMBERS = torch.tensor([4, 0, 7])


def world(**more: Any) -> World:
    return build(scenario_of(**more))


WORLD = world(
    vertical={
        "parties": [{"name": "first", "columns": [0, 10]}, {"name": "second", "columns": [10, 30]}],
        "activation": "tanh",
        "knows": ["few-labels"],
        "attacks": [{"name": "cut-line"}],
    }
)


def sent(number: int, state: RecordDict) -> torch.Tensor:
    content = RecordDict({STEP: ConfigRecord({"number": number}), ROWS: pack_tensor(ROW_NUMBERS)})
    return unpack_tensor(embed(WORLD, 1, content, state))


def test_a_party_trains_on_what_comes_back_and_the_first_step_begins_again() -> None:
    state = RecordDict()
    first = sent(0, state)
    assert first.shape == (3, 8)
    assert first.dtype == torch.double
    assert torch.equal(sent(1, state), first)  # nothing came back, so nothing was learned
    assert list(cut(WORLD, 1, RecordDict({"second": pack_tensor(torch.ones_like(first))}), state)) == []
    assert sent(2, state).sum() < first.sum()  # a gradient of ones is that of the sum
    assert torch.equal(sent(0, state), first)


def test_gradients_before_rows_are_refused() -> None:
    with pytest.raises(FedsimError, match=r"without a request.*Call query\.embed first"):
        cut(WORLD, 0, RecordDict({"first": pack_tensor(torch.zeros(3, 8))}), RecordDict())


def test_a_scenario_without_parties_says_which_table_is_missing() -> None:
    with pytest.raises(FedsimError, match=r"Add the table \[vertical\]"):
        split_settings(world())
