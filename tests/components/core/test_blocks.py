"""Blocks are found by Llama's names, and whatever they return is read and replaced."""

import pytest
import torch
from torch import nn

from fedsim.components.core.blocks import blocks_of, states_in, with_states
from fedsim.core.errors import NotApplicable
from tests.components.generating import tiny_llama


def test_blocks_come_in_their_order_from_any_depth() -> None:
    model = tiny_llama(blocks=3)
    assert list(blocks_of(nn.Sequential(model), "own")) == [
        model.get_submodule(f"layers.{number}") for number in range(3)
    ]


def test_another_model_is_refused_with_a_sentence() -> None:
    with pytest.raises(NotApplicable, match="component 'own': the model has no list of blocks 'layers'"):
        blocks_of(nn.Sequential(nn.Linear(2, 2)), "own")


def test_states_of_a_tuple_are_read_and_replaced() -> None:
    first, second = torch.zeros(1), torch.ones(1)
    assert states_in(first) is states_in((first, "more")) is first
    assert with_states(first, second) is second
    assert with_states((first, "more"), second) == (second, "more")
