"""Small Llamas of our own and of the transformers package."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedsim.core import registry, seeding
from fedsim.core.types import InputSpec

transformers = pytest.importorskip("transformers")
SIZES = {"width": 16, "blocks": 2, "heads": 4, "key_value_heads": 2, "hidden": 20}
LENGTH, VOCABULARY = 6, 11


def spec(length: int = LENGTH, vocabulary: int = VOCABULARY) -> InputSpec:
    return InputSpec((length,), vocabulary, (), (), vocabulary=vocabulary)


def build(name: str = "tiny-llama", about: InputSpec | None = None, **settings: Any) -> nn.Module:
    method = registry.get("model", name)
    with seeding.isolate_randomness(3):
        return method.make(method.config.model_validate(settings), about or spec())


def reference(tied: bool = False) -> Any:
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        rms_norm_eps=1e-5,
        tie_word_embeddings=tied,
        attn_implementation="eager",
    )
    with seeding.isolate_randomness(4):
        return transformers.LlamaForCausalLM(config)


def tokens(count: int = 3, length: int = LENGTH) -> Tensor:
    return torch.randint(VOCABULARY, (count, length), generator=torch.Generator().manual_seed(0))


TAGS = InputSpec((LENGTH,), 3, (), (), vocabulary=VOCABULARY, padding=0)
