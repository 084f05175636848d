"""A model as its layers: where they are known, running them is the model's own forward pass."""

import copy

import torch
from torch import nn

from fedsim.core.nets.kv_cache import Layered, stack_of
from fedsim.core.nets.kv_cache.key_values import KVCache
from fedsim.core.nets.kv_cache.stack import is_listened_to, only_watches
from tests.components.generating import tiny_llama
from tests.core.nets.kv_cache.anew import ROUNDING


def test_layers_run_one_by_one_are_the_forward_pass() -> None:
    model = tiny_llama().eval()
    assert isinstance(model, Layered)
    stack, tokens = stack_of(model), torch.tensor([[1, 2, 3, 4]])
    causal = torch.full((4, 4), -torch.inf, dtype=torch.double).triu(1)[None, None]
    with torch.no_grad():
        hidden = stack.embed(tokens)
        place, store = stack.place(hidden, torch.arange(4)[None]), KVCache(stack.depth, 1)
        for number in range(stack.depth):
            hidden = stack.layer(number, hidden, place, causal, store)
        torch.testing.assert_close(stack.score(hidden), model(tokens), rtol=0, atol=ROUNDING)


def test_a_model_without_known_layers_or_with_a_hook_has_none() -> None:
    assert stack_of(nn.Linear(2, 2)) is None
    model = tiny_llama()
    handle = model.register_forward_hook(lambda *_: None)
    assert stack_of(model) is None
    handle.remove()
    assert stack_of(model) is not None


def test_hooks_in_front_and_behind_are_noticed_and_those_of_gradients_are_not() -> None:
    one, other = nn.Linear(1, 1), nn.Linear(1, 1)
    assert not is_listened_to(one, other)
    other.register_full_backward_hook(lambda *_: None)
    assert not is_listened_to(one, other)
    handle = one.register_forward_pre_hook(lambda *_: None)
    assert is_listened_to(one, other)
    handle.remove()
    other.register_forward_hook(lambda *_: None)
    assert is_listened_to(one, other)


def test_hooks_that_only_watch_do_not_count_in_copies_either() -> None:
    model = tiny_llama()
    model.register_forward_hook(only_watches(lambda *_: None))
    model.register_forward_pre_hook(only_watches(lambda *_: None))
    assert stack_of(model) is not None
    assert stack_of(copy.deepcopy(model)) is not None
    model.register_forward_hook(lambda *_: None)
    assert stack_of(model) is None
