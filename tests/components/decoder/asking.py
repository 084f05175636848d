"""Prompts that decoders go on from, and the reference that greedy text is compared with."""

from typing import Any

import pytest
from torch import nn

from fedsim.core.types import Limits
from tests.components.generating import VOCABULARY, prompts, tiny_llama

ASKED = prompts([1, 2, 3, 4], [5, 6], [7], [8, 9, 10, 11, 12, 13])
LONG = Limits(max_new_tokens=20)


def reference() -> tuple[nn.Module, Any]:
    """A tiny Llama, and that of the package with the same weights."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        attn_implementation="eager",
        eos_token_id=None,
        pad_token_id=0,
    )
    ours = tiny_llama()
    theirs = transformers.LlamaForCausalLM(config).double().eval()
    renamed = {
        (name if name.startswith("lm_head") else f"model.{name}"): tensor for name, tensor in ours.state_dict().items()
    }
    theirs.load_state_dict(renamed)
    return ours, theirs
