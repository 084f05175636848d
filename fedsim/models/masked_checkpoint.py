"""A masked diffusion language model, LLaDA or Dream, from a local Hugging Face folder, without running its own code.

Papers: Nie et al. 2025, arXiv 2502.09992; Ye et al. 2025, arXiv 2508.15487. Both folders contain model code, which is
never run: LLaDA's weights are those of a Llama and Dream's those of a Qwen 2, partly under other names, without a
causal mask. Dream predicts each token at the previous position. Leakage: a trained model memorises, and its
embedding's gradient reveals the visible words of a batch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.core.errors import FedsimError, MissingExtra, first_line
from fedsim.core.registry import model
from fedsim.core.types import Config, InputSpec
from fedsim.models._language import scores_tokens, text_shape
from fedsim.models._llama import LlamaLayers

_NAME = "masked-checkpoint"
_LLADA, _DREAM = "llada", "Dream"
_ALWAYS = {  # settings shared by all published LLaDA models; other values are not supported
    "block_type": "llama",
    "layer_norm_type": "rms",
    "activation_type": "silu",
    "rope": True,
    "alibi": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "weight_tying": False,
    "scale_logits": False,
    "input_emb_norm": False,
}
_LLADA_SIZES = {
    "d_model": "hidden_size",
    "mlp_hidden_size": "intermediate_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "max_sequence_length": "max_position_embeddings",
    "rms_norm_eps": "rms_norm_eps",
    "embedding_size": "vocab_size",
}
_DREAM_SIZES = {name: name for name in _LLADA_SIZES.values()}
_LLADA_WHOLE = {
    "model.transformer.wte.weight": "model.embed_tokens.weight",
    "model.transformer.ln_f.weight": "model.norm.weight",
    "model.transformer.ff_out.weight": "lm_head.weight",
}
_LLADA_LAYER = {
    "attn_norm": "input_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_norm": "post_attention_layernorm",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}


class MaskedCheckpointConfig(Config):
    """Settings of masked-checkpoint."""

    path: Path = Field(
        description="folder with config.json and *.safetensors; data.tokenizer must name the same folder"
    )


@model(_NAME, summary="LLaDA or Dream from a local checkpoint folder", paper="2502.09992", extra="llm")
def masked_checkpoint(config: MaskedCheckpointConfig, spec: InputSpec) -> nn.Module:
    """Load the model, in single precision.

    Raises:
        MissingExtra: transformers is not installed.
        FedsimError: no such folder, a checkpoint of another architecture, weights that are missing or in another
            format,
            no mask token, a tokenizer of another model, or examples longer than the model's context.
    """
    length, vocabulary = text_shape(spec, _NAME)
    if not scores_tokens(spec):
        raise FedsimError(f"model '{_NAME}' scores tokens, and the labels are none. Choose a set for masked diffusion.")
    loaded = _load(config.path, spec.padding)
    if length > loaded.context:
        raise FedsimError(f"data.length is {length}, expected at most {loaded.context}, the context of the model.")
    if vocabulary > loaded.vocabulary_size:
        raise FedsimError(
            f"the tokenizer has {vocabulary} tokens, the model in {config.path} only {loaded.vocabulary_size}: they "
            f'belong to different models. Set data.tokenizer = "{config.path}".'
        )
    return loaded


class MaskedModel(nn.Module):
    """Tokens (B, T) to logits of the token at each position (B, T, V), with bidirectional attention.

    Args:
        wrapped: a causal transformers model.
        mask_token: token at masked positions.
        is_shifted: whether the hidden state at a position predicts the next position's token.
        padding: token that pads short examples; None without padding.
    """

    def __init__(self, wrapped: Any, mask_token: int, is_shifted: bool, padding: int | None) -> None:
        super().__init__()
        self.own = wrapped
        self.mask_token, self.padding_token = mask_token, padding
        self.is_shifted = is_shifted

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens in the model's embedding."""
        return self.own.get_input_embeddings().num_embeddings

    @property
    def context(self) -> int:
        """Context length of the model in tokens."""
        return self.own.config.max_position_embeddings

    def forward(self, tokens: Tensor, masked: Tensor | None = None) -> Tensor:
        """Return logits.

        Args:
            tokens: shape (B, T); may contain the mask token.
            masked: positions (B, T) to mask, whatever their token.
        """
        if masked is not None:
            tokens = tokens.masked_fill(masked, self.mask_token)
        nothing_hidden = self.own.lm_head.weight.new_zeros(len(tokens), 1, tokens.shape[1], tokens.shape[1])
        scores = self.own(input_ids=tokens, attention_mask=nothing_hidden, use_cache=False).logits
        return self._shift_logits(scores)

    def read(self, tokens: Tensor, positions: Tensor, store: Any) -> Tensor:
        """Return logits (B, n, V) of some positions, which attend to the store's keys and values.

        Args:
            tokens: shape (B, n).
            positions: their positions in the text, shape (B, n), ascending. In a shifted model the logits of a position
                are
                undefined if the previous position is not included.
            store: receives the keys and values of each layer, and returns the keys and values of all attended
                positions.
        """
        layers = LlamaLayers(self.own)
        hidden = layers.embed(tokens)
        place, nothing_hidden = layers.place(hidden, positions), hidden.new_zeros(1, 1, 1, 1)
        for number in range(layers.depth):
            hidden = layers.layer(number, hidden, place, nothing_hidden, store)
        return self._shift_logits(layers.score(hidden))

    def _shift_logits(self, scores: Tensor) -> Tensor:
        """Return logits moved to the positions of the tokens that they predict."""
        return torch.cat((scores[:, :1], scores[:, :-1]), 1) if self.is_shifted else scores


def _load(path: Path, padding: int | None) -> MaskedModel:
    settings = _settings(path)
    kind = settings.get("model_type")
    mask = settings.get("mask_token_id")
    if not isinstance(mask, int):
        raise FedsimError(
            f"{path / 'config.json'} names no mask_token_id, so masked places cannot be shown to the model. Add the "
            "number of the mask token, as the published checkpoints do."
        )
    weights = _weights(path)
    if kind == _LLADA:
        weights = {_rename_weight(name): weight for name, weight in weights.items()}
    wrapped = _build_model(kind, settings, path)
    missing, strange = wrapped.load_state_dict(weights, strict=False) if _fits(wrapped, weights, path) else ([], [])
    if missing or strange:
        problem = (
            f"lacks the weight '{missing[0]}'" if missing else f"holds a weight '{strange[0]}' that {kind} has not"
        )
        raise FedsimError(f"the checkpoint in {path} {problem}: expected the names of {kind}'s published checkpoints.")
    return MaskedModel(wrapped, mask, kind == _DREAM, padding)


def _settings(path: Path) -> Mapping[str, Any]:
    file = path / "config.json"
    if not file.is_file():
        raise FedsimError(f"no {file}: expected the folder of a Hugging Face checkpoint.")
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FedsimError(f"{file} is not JSON: {error}") from error
    kind = settings.get("model_type")
    if kind not in (_LLADA, _DREAM):
        raise FedsimError(
            f"the checkpoint in {path} is of kind '{kind}', expected '{_LLADA}' or '{_DREAM}'. Causal language models "
            "are read by model 'hugging-face'."
        )
    for name, value in _ALWAYS.items() if kind == _LLADA else ():
        if settings.get(name, value) != value:
            raise FedsimError(
                f"{file} says {name} = {settings[name]!r}, and fedsim computes LLaDA with {value!r} alone, as the "
                "published checkpoints have it. Its own code is never run."
            )
    return settings


def _weights(path: Path) -> dict[str, Tensor]:
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise FedsimError(
            f"{path} holds no .safetensors file. Other formats can run code when they are read: save the model with "
            "model.save_pretrained(folder)."
        )
    try:
        from safetensors.torch import load_file  # noqa: PLC0415 - an extra
    except ImportError:
        raise MissingExtra("safetensors, which reads weights,", "pip install 'fedsim-privacy[llm]'") from None
    weights: dict[str, Tensor] = {}
    for file in files:
        try:
            weights |= {name: weight.float() for name, weight in load_file(file).items()}
        except Exception as error:
            raise FedsimError(f"{file} cannot be read: {first_line(error)}") from error
    return weights


def _rename_weight(name: str) -> str:
    """Return the Llama name of a LLaDA weight; the name unchanged if it has none."""
    if name in _LLADA_WHOLE:
        return _LLADA_WHOLE[name]
    match = re.fullmatch(r"model\.transformer\.blocks\.(\d+)\.(\w+)\.weight", name)
    if match is None or match[2] not in _LLADA_LAYER:
        return name
    return f"model.layers.{match[1]}.{_LLADA_LAYER[match[2]]}.weight"


def _build_model(kind: object, settings: Mapping[str, Any], path: Path) -> Any:
    """Return an untrained model with a checkpoint's sizes."""
    try:
        import transformers  # noqa: PLC0415 - an extra, and slow to import
    except ImportError:
        raise MissingExtra("transformers, which runs real models,", "pip install 'fedsim-privacy[llm]'") from None
    names = _LLADA_SIZES if kind == _LLADA else _DREAM_SIZES
    absent = [name for name in names if name not in settings]
    if absent:
        raise FedsimError(f"{path / 'config.json'} does not say {absent[0]}, which a checkpoint of {kind} has.")
    sizes = {theirs: settings[name] for name, theirs in names.items()}
    shared: dict[str, Any] = {
        **sizes,
        "rope_parameters": {"rope_type": "default", "rope_theta": float(settings.get("rope_theta", 10_000.0))},
        "tie_word_embeddings": bool(settings.get("tie_word_embeddings", False)),
        "attn_implementation": "eager",
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if kind == _LLADA:
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**shared))
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**shared))


def _fits(wrapped: Any, weights: Mapping[str, Tensor], path: Path) -> bool:
    """Check the shapes of weights.

    Raises:
        FedsimError: a weight has another shape than config.json implies.
    """
    expected = wrapped.state_dict()
    for name, tensor in weights.items():
        if name in expected and tensor.shape != expected[name].shape:
            raise FedsimError(
                f"the checkpoint in {path} has '{name}' of shape {tuple(tensor.shape)}, and its config.json says "
                f"{tuple(expected[name].shape)}: they belong to different models."
            )
    return True
