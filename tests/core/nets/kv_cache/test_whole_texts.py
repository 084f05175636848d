"""Inside the context a model sees whole texts again; outside it sees what is new."""

from typing import Any

import torch
from torch import nn

from fedsim.core.nets.kv_cache import DecodingCache, whole_texts
from tests.components.generating import tiny_llama


def lengths_seen(model: nn.Module) -> list[int]:
    """How many tokens the first block sees in each pass of a text that grows by one."""
    seen: list[int] = []

    def note(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.append(inputs[0].shape[1])

    handle = next(module for name, module in model.named_modules() if name == "layers.0").register_forward_pre_hook(
        note
    )
    past = DecodingCache()
    with torch.no_grad():
        past.scores(model, [(1, 2, 3)])
        past.scores(model, [(1, 2, 3, 4)])
    handle.remove()
    return seen


def test_texts_are_read_from_the_beginning_in_the_context_alone() -> None:
    model = tiny_llama()
    assert lengths_seen(model) == [3, 1]
    with whole_texts():
        assert lengths_seen(model) == [3, 4]
    assert lengths_seen(model) == [3, 1]
