"""Layers of the transformers package, one by one, against its own forward pass."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from fedsim.core.nets.kv_cache import DecodingCache, Draft, KVCache
from fedsim.core.types import InputSpec
from fedsim.models._llama import LlamaLayers, is_like_llama
from tests.components.generating import VOCABULARY
from tests.core.nets.kv_cache.anew import TREE, anew, check
from tests.models.packaged import package_model

SINGLE = 1e-5  # attention of the transformers package takes its softmax in single precision, whatever the weights


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("kind", ["Llama", "Qwen2", "Qwen3", "Mistral"])
def test_models_of_the_package_are_read_like_their_own_forward_pass(kind: str) -> None:
    from fedsim.models._checkpoint import CausalModel

    own = package_model(kind)
    model = CausalModel(own, InputSpec((8,), VOCABULARY, (), (), vocabulary=VOCABULARY)).double().eval()
    assert model.stack() is not None
    past, texts = DecodingCache(), [[1, 2, 3], [4]]
    (first, _) = past.scores(model, texts, [TREE, Draft()])
    for row, way in zip(first, [[], [3], [4], [3, 5], [4, 3], [3, 5, 6]], strict=True):
        torch.testing.assert_close(row, anew(model, [1, 2, 3, *way]), rtol=0, atol=SINGLE)
    check(past, model, [[1, 2, 3, 4, 3, 8], [4, 9]], SINGLE)
    assert own.config._attn_implementation == "eager"


@pytest.mark.parametrize("kind", ["GPT2", "sliding"])
def test_models_of_another_kind_are_read_anew(kind: str) -> None:
    from fedsim.models._checkpoint import CausalModel

    own = package_model("Mistral", sliding_window=4) if kind == "sliding" else package_model(kind)
    model = CausalModel(own, InputSpec((8,), VOCABULARY, (), (), vocabulary=VOCABULARY)).double().eval()
    assert model.stack() is None
    check(DecodingCache(), model, [[1, 2, 3], [4]], SINGLE)


def test_only_models_whose_layers_do_what_llamas_do_are_taken_apart() -> None:
    own = package_model("Llama")
    assert is_like_llama(own)
    own.model.rotary_emb.rope_type = "dynamic"
    assert not is_like_llama(own)
    assert not is_like_llama(package_model("Mistral", sliding_window=4))
    assert not is_like_llama(package_model("GPT2"))


def test_a_layer_that_fails_leaves_the_models_own_attention() -> None:
    own = package_model("Llama")
    layers = LlamaLayers(own)
    assert layers.depth == 2
    with pytest.raises(IndexError):
        layers.layer(7, torch.zeros(1, 1, 16), None, None, KVCache(2, 1))
    assert own.config._attn_implementation == "eager"
