"""Gradients as sums of outer products, kind by kind, against autograd row by row."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.core.matching.watched_calls import Outer, Part, Unsuited, Watch, combine_parts

ROWS, EXAMPLES = 2, 3


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whole(part: Part) -> Tensor:
    return part.whole() if isinstance(part, Outer) else part


@pytest.mark.parametrize(("count", "inputs", "outputs"), [(1, 4, 5), (2, 30, 40), (9, 2, 3)])
def test_squared_norms_are_those_of_the_whole_gradient(count: int, inputs: int, outputs: int) -> None:
    """One product, few products of a large matrix, and many of a small one take formulas of their own."""
    outer = Outer(drawn(ROWS, count, inputs), drawn(ROWS, count, outputs, seed=1))
    expected = torch.stack([sum((torch.outer(d, z) for d, z in zip(*own, strict=True)), torch.zeros(()))
                            for own in zip(outer.deltas, outer.inputs, strict=True)])  # fmt: skip
    assert torch.allclose(outer.whole(), expected)
    assert torch.allclose(outer.squared_norms(), expected.square().sum((1, 2)))


def test_parts_of_a_parameter_that_is_used_twice_add_up() -> None:
    first, second = (Outer(drawn(2, 3, 4, seed=s), drawn(2, 3, 5, seed=s + 1)) for s in (0, 2))
    assert combine_parts([first]) is first
    assert torch.allclose(whole(combine_parts([first, second])), first.whole() + second.whole())
    assert torch.allclose(whole(combine_parts([first, second.whole()])), first.whole() + second.whole())
    with pytest.raises(Unsuited):
        combine_parts([])


Call = Callable[[Tensor, Tensor, Tensor], Tensor]
CALLS: dict[str, tuple[Call, tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "linear": (F.linear, (4,), (5, 4), (5,)),
    "linear of tokens": (F.linear, (7, 4), (5, 4), (5,)),
    "conv2d": (partial(F.conv2d, stride=2, padding=1), (2, 5, 6), (3, 2, 3, 3), (3,)),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, [4], w, b), (7, 4), (4,), (4,)),
    "rms_norm": (lambda x, w, _b: F.rms_norm(x, [4], w), (7, 4), (4,), (4,)),
    "group_norm": (lambda x, w, b: F.group_norm(x, 2, w, b), (4, 3, 3), (4,), (4,)),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_watched_call_gives_each_rows_gradient(name: str) -> None:
    call, shape, of_weight, of_bias = CALLS[name]
    inputs = drawn(ROWS * EXAMPLES, *shape)
    weight, bias = (drawn(*own, seed=s).requires_grad_() for s, own in ((1, of_weight), (2, of_bias)))
    with Watch({id(weight): "w", id(bias): "b"}, frozenset(), ROWS, EXAMPLES) as watch:
        output = call(inputs, weight, bias)
    plain = call(inputs, weight, bias)
    assert torch.allclose(output, plain)
    delta = drawn(*plain.shape, seed=3)
    (noted,) = watch.calls
    parts = noted.parts(delta)
    for row in range(ROWS):
        own = slice(row * EXAMPLES, (row + 1) * EXAMPLES)
        expected = torch.autograd.grad(
            (plain * delta)[own].sum(), (weight, bias), retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for key, gradient in zip(("w", "b"), expected, strict=True):
            if key in parts:
                assert torch.allclose(whole(parts[key])[row].flatten(), gradient.flatten())
    assert parts.keys() == ({"w"} if name == "rms_norm" else {"w", "b"})


def test_rows_of_an_embedding_are_those_that_were_read() -> None:
    table = drawn(6, 4).requires_grad_()
    tokens = torch.tensor([[0, 1], [1, 1], [2, 3], [3, 3], [5, 0], [5, 5]])
    with Watch({id(table): "t"}, frozenset(), ROWS, EXAMPLES) as watch:
        F.embedding(tokens, table)
    delta = drawn(*tokens.shape, 4, seed=1)
    found = whole(watch.calls[0].parts(delta)["t"])
    for row in range(ROWS):
        expected = torch.zeros(6, 4, dtype=torch.float64)
        for example in range(EXAMPLES * row, EXAMPLES * (row + 1)):
            for place in range(2):
                expected[tokens[example, place]] += delta[example, place]
        assert torch.allclose(found[row], expected)


def test_grouped_convolutions_and_norms_without_a_shift_are_not_for_this_path() -> None:
    inputs, weight = drawn(6, 4, 5, 5), drawn(4, 2, 3, 3)
    with Watch({id(weight): "w"}, frozenset(), ROWS, EXAMPLES), pytest.raises(Unsuited):
        F.conv2d(inputs, weight, groups=2)
    scale = drawn(5)
    with Watch({id(scale): "s"}, frozenset(), ROWS, EXAMPLES), pytest.raises(Unsuited):
        F.layer_norm(inputs, [5], scale)
