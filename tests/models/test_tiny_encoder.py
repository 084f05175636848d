"""The tiny sentence encoder: padding changes nothing, and masks can be injected."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedsim.core.errors import FedsimError
from fedsim.core.nets import masks
from fedsim.core.types import InputSpec
from tests.models.encoders import build


def tokens(count: int = 3, length: int = 6) -> Tensor:
    return torch.randint(10, (count, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("pooling", ["mean", pytest.param("class-token", marks=pytest.mark.slow)])
@given(length=st.integers(1, 6), filled=st.integers(0, 20))
def test_padding_changes_nothing(pooling: str, length: int, filled: int) -> None:
    model = build(pooling=pooling).eval()
    short = tokens(3, length)
    long = F.pad(short, (0, filled), value=10)
    assert model(short).shape == (3, 64)
    assert torch.allclose(model(short), model(long), atol=1e-6)


def test_the_mean_is_over_words_and_the_order_counts() -> None:
    model = build(blocks=1).eval()
    seen: list[Tensor] = []
    model.get_submodule("norm").register_forward_hook(lambda _m, _i, out: seen.append(out))
    batch = torch.tensor([[1, 2, 3, 10, 10, 10]])
    assert torch.allclose(model(batch)[0], seen[0][0, :3].mean(0), atol=1e-6)
    assert not torch.allclose(model(batch), model(torch.tensor([[3, 2, 1, 10, 10, 10]])), atol=1e-4)


@pytest.mark.parametrize("pooling", ["mean", "class-token"])
def test_recorded_masks_can_be_injected_and_the_gradient_can_be_differentiated(pooling: str) -> None:
    model = build(pooling=pooling, dropout=0.5).train()
    parameters = list(model.parameters())
    with masks.record_masks(model, torch.Generator().manual_seed(1)) as recording:
        gradients = torch.autograd.grad(model(tokens()).square().sum(), parameters)
    with masks.inject_masks(recording.sites, tuple(recording.masks)):
        injected = torch.autograd.grad(model(tokens()).square().sum(), parameters, create_graph=True)
    assert len(recording.masks) == 1 + 2 * 3
    assert all(torch.equal(a, b) for a, b in zip(gradients, injected, strict=True))
    second = torch.autograd.grad(sum(g.square().sum() for g in injected), parameters[:1])
    assert float(second[0].abs().max()) > 0


def test_the_embedding_names_the_words_and_the_positions_the_longest_sentence() -> None:
    model = build().train()
    batch = torch.tensor([[1, 2, 3, 10, 10, 10], [2, 5, 10, 10, 10, 10]])
    model(batch).square().sum().backward()
    rows = {name: model.get_parameter(f"embed_{name}.weight").grad for name in ("tokens", "positions")}
    assert {name: row.any(1).nonzero().flatten().tolist() for name, row in rows.items() if row is not None} == {
        "tokens": [1, 2, 3, 5],
        "positions": [0, 1, 2],
    }


def test_what_does_not_fit_is_one_clear_sentence() -> None:
    with pytest.raises(FedsimError, match="model 'tiny-encoder' reads text"):
        build(about=InputSpec((3, 8, 8), 10, (0.0,) * 3, (1.0,) * 3))
    with pytest.raises(FedsimError, match='labels of 11 classes.*data.name = "sentence-pairs"'):
        build(about=InputSpec((6,), 11, (), (), vocabulary=11))
    with pytest.raises(FedsimError, match=r"data\.length is 6, expected at most 5"):
        build(positions=5)
    with pytest.raises(FedsimError, match="expected a multiple of the heads"):
        build(width=10, heads=4)
