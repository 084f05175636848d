"""A block of Llama's kind against a loop over positions, and its use of what was read before."""

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from fedsim.core import seeding
from fedsim.models._llama_block import LlamaBlock, _rotate

SIZES: dict[str, Any] = {
    "dropout": 0.0, "width": 8, "heads": 4, "key_value_heads": 2, "hidden": 6, "base": 100.0, "epsilon": 1e-6,
}  # fmt: skip
EXACT = 1e-12  # double precision: sums of at most 8 terms, in another order


@pytest.fixture
def block() -> LlamaBlock:
    with seeding.isolate_randomness(1):
        return LlamaBlock(SimpleNamespace(**SIZES)).double()  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def hidden(length: int = 5) -> Tensor:
    return torch.randn(2, length, 8, generator=torch.Generator().manual_seed(0)).double()


def causal(length: int) -> Tensor:
    return torch.full((1, 1, length, length), -torch.inf, dtype=torch.double).triu(1)


def rotated(head: Tensor, position: int) -> Tensor:
    """A head's entries i and i + F/2 as complex numbers, turned by their angle."""
    half = len(head) // 2
    angles = [position * SIZES["base"] ** (-number / half) for number in range(half)]
    turned = [complex(head[i], head[i + half]) * complex(math.cos(a), math.sin(a)) for i, a in enumerate(angles)]
    return torch.tensor([own.real for own in turned] + [own.imag for own in turned], dtype=torch.double)


def test_rotation_turns_pairs_of_entries_by_position_times_rate() -> None:
    heads = torch.randn(1, 1, 3, 4, generator=torch.Generator().manual_seed(2)).double()
    found = _rotate(heads, torch.tensor([0, 2, 7]), SIZES["base"])
    for place, position in enumerate((0, 2, 7)):
        # The angles are taken in single precision, as those of the transformers package are.
        torch.testing.assert_close(found[0, 0, place], rotated(heads[0, 0, place], position), rtol=0, atol=1e-5)


def test_attention_is_that_of_a_loop_over_heads_and_positions(block: LlamaBlock) -> None:
    own, x = block.self_attn, hidden()
    q, k, v = (layer(x).unflatten(-1, (-1, 2)) for layer in (own.q_proj, own.k_proj, own.v_proj))
    rows: list[Tensor] = []
    for row in range(2):
        for at in range(5):
            heads: list[Tensor] = []
            for head in range(4):
                query = rotated(q[row, at, head], at)
                keys = torch.stack([rotated(k[row, t, head // 2], t) for t in range(at + 1)])
                weights = (keys @ query / math.sqrt(2)).softmax(-1)
                heads.append(weights @ v[row, : at + 1, head // 2])
            rows.append(torch.cat(heads))
    expected = own.o_proj(torch.stack(rows).view(2, 5, 8))
    torch.testing.assert_close(own(x, causal(5)), expected, rtol=0, atol=1e-5)  # angles as above


def test_the_mlp_is_gated_and_both_parts_are_added(block: LlamaBlock) -> None:
    x = hidden()
    after = x + block.self_attn(block.input_layernorm(x), causal(5))
    normed = block.post_attention_layernorm(after)
    gate = block.mlp.gate_proj(normed)
    expected = after + block.mlp.down_proj(gate * gate.sigmoid() * block.mlp.up_proj(normed))
    torch.testing.assert_close(block(x, attention_mask=causal(5)), expected, rtol=0, atol=EXACT)


def test_what_was_read_before_gives_the_same_as_reading_all(block: LlamaBlock) -> None:
    x, kept = hidden(), dict[str, Tensor]()

    def past(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        for name, new in (("keys", keys), ("values", values)):
            kept[name] = torch.cat((kept[name], new), 2) if name in kept else new
        return kept["keys"], kept["values"]

    whole = block(x, attention_mask=causal(5))
    first = block(x[:, :3], attention_mask=causal(3), positions=torch.arange(3).expand(2, -1), cache=past)
    rest = block(x[:, 3:], attention_mask=causal(5)[..., 3:, :], positions=torch.arange(3, 5).expand(2, -1), cache=past)
    torch.testing.assert_close(torch.cat((first, rest), 1), whole, rtol=0, atol=EXACT)


def test_without_a_mask_every_token_sees_every_other(block: LlamaBlock) -> None:
    x = hidden()
    changed = x.clone()
    changed[:, -1] += 1
    apart = (block(x, attention_mask=None) - block(changed, attention_mask=None)).abs().amax((0, 2))
    assert bool((apart > 0).all())
    apart = (block(x, attention_mask=causal(5)) - block(changed, attention_mask=causal(5))).abs().amax((0, 2))
    assert apart.gt(0).tolist() == [False] * 4 + [True]


def test_a_token_without_a_share_is_hidden_and_its_share_has_a_gradient(block: LlamaBlock) -> None:
    own, x = block.self_attn, hidden()
    shares = torch.tensor([[1.0, 0.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0, 1.0]]).double()
    hide = causal(5) + torch.zeros(2, 1, 1, 5).double().masked_fill(shares[:, None, None] == 0, -torch.inf)
    torch.testing.assert_close(own(x, causal(5), shares=shares), own(x, hide), rtol=0, atol=EXACT)
    queries, keys = own.queries_keys(x)
    weights = own.weights(queries, keys, causal(5), 0.5 + shares)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 5).double(), rtol=0, atol=EXACT)
    with torch.enable_grad():
        shares.requires_grad_()
        (gradient,) = torch.autograd.grad(block(x, attention_mask=causal(5), shares=shares).sum(), shares)
    assert bool((gradient[:, :4] != 0).all())
