"""Sentence encoders: padding changes nothing, masks can be injected, and MiniLM is the published one."""

import os
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fedsim.core import checkpoints, masks, registry, seeding
from fedsim.core.errors import FedsimError, MissingExtra
from fedsim.core.types import InputSpec

SPEC = InputSpec((6,), 1, (), (), vocabulary=11, padding=10)


def build(name: str = "tiny-encoder", about: InputSpec = SPEC, **settings: Any) -> nn.Module:
    method = registry.get("model", name)
    with seeding.isolate_randomness(3):
        return method.make(method.config.model_validate(settings), about)


def tokens(count: int = 3, length: int = 6) -> Tensor:
    return torch.randint(10, (count, length), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def real() -> tuple[nn.Module, Any]:
    """MiniLM with its tokenizer; without its package the test is skipped, and fails in CI."""
    pytest.importorskip("transformers")
    try:
        folder = checkpoints.minilm()
    except MissingExtra as error:
        (pytest.fail if "CI" in os.environ else pytest.skip)(str(error))
    from fedsim.data._tokenizer import ModelTokenizer

    return build("minilm", InputSpec((16,), 1, (), (), vocabulary=30522, padding=0)), ModelTokenizer(folder)


@pytest.mark.parametrize("pooling", ["mean", "class-token"])
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
        drawn = torch.autograd.grad(model(tokens()).square().sum(), parameters)
    with masks.inject_masks(recording.sites, tuple(recording.masks)):
        injected = torch.autograd.grad(model(tokens()).square().sum(), parameters, create_graph=True)
    assert len(recording.masks) == 1 + 2 * 3
    assert all(torch.equal(a, b) for a, b in zip(drawn, injected, strict=True))
    second = torch.autograd.grad(sum(g.square().sum() for g in injected), parameters[:1])
    assert float(second[0].abs().max()) > 0


def test_the_embedding_names_the_words_and_the_positions_the_longest_sentence() -> None:
    model = build().train()
    batch = torch.tensor([[1, 2, 3, 10, 10, 10], [2, 5, 10, 10, 10, 10]])
    model(batch).square().sum().backward()
    rows = {name: model.get_parameter(f"embed_{name}.weight").grad for name in ("tokens", "positions")}
    assert {name: own.any(1).nonzero().flatten().tolist() for name, own in rows.items() if own is not None} == {
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


def test_minilm_knows_that_a_flute_is_a_flute(real: tuple[nn.Module, Any]) -> None:
    model, tokenizer = real
    rows = [
        [101, *tokenizer.encode(text), 102]
        for text in ("A man is playing a large flute.", "A man is playing a flute.", "Stocks fell on Friday.")
    ]
    batch = torch.tensor([row + [0] * (16 - len(row)) for row in rows])
    with torch.no_grad():
        first, second, other = F.normalize(model.eval()(batch))
        alone = model(torch.tensor(rows[1:2]))
    assert float(first @ second) > 0.85
    assert float(first @ other) < 0.15
    assert torch.allclose(F.normalize(alone)[0], second, atol=1e-5)


def test_minilm_drops_out_at_the_rate_that_is_set(real: tuple[nn.Module, Any]) -> None:
    model, _ = real
    assert sum(p.numel() for p in model.parameters()) == 22_565_376
    sites = masks.dropout_sites(model, (16,), 2, torch.long)
    assert {site.rate for site in sites} == {0.1}
    assert len(sites) == 1 + 6 * 3
    assert all(site.shape[0] == 2 for site in sites)


def test_minilm_wants_its_own_tokenizer(real: tuple[nn.Module, Any]) -> None:
    with pytest.raises(FedsimError, match='data.tokenizer = "minilm"'):
        build("minilm")
    with pytest.raises(FedsimError, match="expected at most 512"):
        build("minilm", InputSpec((513,), 1, (), (), vocabulary=30522, padding=0))
