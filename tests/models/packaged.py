"""Small language models of the transformers package, with weights that are no tiny ones."""

from typing import Any

import pytest
import torch
from torch import nn

from tests.components.generating import VOCABULARY


def package_model(kind: str, **more: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    if kind == "GPT2":
        sizes = {
            "vocab_size": VOCABULARY,
            "n_embd": 16,
            "n_layer": 2,
            "n_head": 2,
            "bos_token_id": 0,
            "eos_token_id": 0,
        }
    elif kind != "Llama":
        sizes |= {"sliding_window": None, **({"head_dim": 4} if kind == "Qwen3" else {})}
    config = getattr(transformers, f"{kind}Config")(**(sizes | more), attn_implementation="eager")
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        own = getattr(
            transformers, f"{kind}{'LMHead' if kind == 'GPT2' else 'ForCausalLM'}{'Model' if kind == 'GPT2' else ''}"
        )(config)
        for weight in own.parameters():
            if weight.ndim > 1:
                nn.init.normal_(weight, std=0.3)
    return own
