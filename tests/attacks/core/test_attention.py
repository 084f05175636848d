"""Kinds of attention: fedsim's own are told apart, and one more needs nothing but its registration."""

from collections.abc import Iterator
from typing import ClassVar, final

import pytest
import torch
from torch import Tensor, nn

from attacks.core.attention import Attention, attentions, fewer_than, kind_at
from fedsim.core import registry
from fedsim.core.types import Config
from tests.attacks.core.attentions.classifiers import attacked, observed, read


class _Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.joined = nn.Linear(32, 96, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        queries, keys, values = self.joined(hidden).chunk(3, -1)
        return (queries @ keys.mT / 4).softmax(-1) @ values


class _Mixing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = _Joined()

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.mix(hidden)


class _Foreign(nn.Module):
    """Three blocks of attention whose one layer has a name that fedsim does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(12, 32), nn.Parameter(torch.randn(3, 32))
        self.blocks = nn.ModuleList(_Mixing() for _ in range(3))
        self.head = nn.Linear(32, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.words(tokens) + self.places[: tokens.shape[1]]
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden.square().mean(1))


@pytest.fixture
def registered() -> Iterator[None]:
    with registry.temporary():

        @final
        @registry.attention("joined", summary="one layer named joined")
        class JoinedAttention(Attention[Config]):
            readers: ClassVar[tuple[str, ...]] = ("joined",)

        yield


def foreign() -> nn.Module:
    torch.manual_seed(3)
    return _Foreign()


def test_a_model_of_unknown_names_is_refused_with_the_kinds_that_are_known() -> None:
    reason = fewer_than(2, foreign())
    assert (
        "2 attentions of a kind of `fedsim list attentions`: bert (query, key, value); gpt2 (c_attn); llama" in reason
    )


@pytest.mark.usefixtures("registered")
def test_one_registration_makes_a_foreign_model_readable() -> None:
    model, tokens = foreign(), torch.tensor([[3, 5, 1], [2, 11, 4]])
    assert attentions(model) == [f"blocks.{number}.mix.joined" for number in range(3)]
    assert fewer_than(3, model) is None
    assert fewer_than(4, model) is not None
    result = attacked("dager", observed(model, tokens))
    assert read(result) == set(map(tuple, tokens.tolist()))


def test_a_kind_has_all_its_layers() -> None:
    layers = {name: nn.Linear(2, 2) for name in ("query", "key", "value")}
    kind = kind_at(nn.ModuleDict(layers))
    assert kind.name == "bert"
    assert kind_at(nn.ModuleDict({"query": layers["query"]})) is None
