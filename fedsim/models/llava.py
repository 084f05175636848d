"""LLaVA of the transformers package, from a folder, with visual token reducers between its layers.

Paper: Liu et al. 2023, arXiv 2304.08485 and 2310.03744: a CLIP vision encoder whose class token is not projected, and a
Llama. A question is a whole prompt in tokens, with as many image tokens as the image has patches.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from fedsim.core.errors import FedsimError
from fedsim.core.nets.visual import PromptCache, Stream, VisualShape
from fedsim.models._checkpoint import load
from fedsim.models._llama import LlamaLayers, is_like_llama
from fedsim.models._vision_language import LanguageModel, Seen, VisionEncoder, VisionLanguage

_KIND = "LlavaForConditionalGeneration"
_ALL = slice(None)


def load_llava(folder: Path) -> Llava:
    """Load a checkpoint in single precision.

    Raises:
        MissingExtra: transformers is not installed.
        FedsimError: the checkpoint cannot be loaded, or is not a LLaVA with CLIP and Llama.
    """
    return Llava(load(_KIND, folder))


class Llava(VisionLanguage):
    """Images (B, 3, H, W), prompts (B, T) and answers to logits of the answer's tokens.

    Args:
        wrapped: a `LlavaForConditionalGeneration`.

    Raises:
        FedsimError: encoder or language model have another architecture, or it projects several layers or the class
            token.
    """

    def __init__(self, wrapped: Any) -> None:
        config, vision, language = wrapped.config, wrapped.config.vision_config, wrapped.model.language_model
        layer, depth = config.vision_feature_layer, vision.num_hidden_layers
        is_known = vision.model_type == "clip_vision_model" and is_like_llama(_causal(wrapped))
        if not is_known or not isinstance(layer, int) or config.vision_feature_select_strategy != "default":
            raise FedsimError(
                "token reducers do not support this LLaVA checkpoint: expected a CLIP vision "
                "encoder, a single feature layer without its class token, and a Llama-style "
                "language model."
            )
        side = vision.image_size // vision.patch_size
        super().__init__(
            VisualShape(
                grid=(side, side),
                encoder_layers=depth,
                feature_layer=depth + layer if layer < 0 else layer - 1,
                layers=len(language.layers),
                encoder_width=vision.hidden_size,
                width=language.config.hidden_size,
                vocabulary=language.config.vocab_size,
            )
        )
        self.own = wrapped
        self.end = int(language.config.eos_token_id)

    def vision(self) -> VisionEncoder:
        """Return the vision encoder."""
        return _ClipEncoder(self.own)

    def language(self) -> LanguageModel:
        """Return the language model."""
        return _LlamaLanguage(self.own)

    def laid_out(self, question: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens before and after the image tokens.

        Raises:
            FedsimError: the number of image tokens is not the number of patches, or they are not contiguous and at the
                same
                positions in all prompts.
        """
        is_image = question == self.own.config.image_token_id
        counts = is_image.sum(1)
        if len(set(counts.tolist())) > 1:
            raise FedsimError(
                f"prompts of a batch hold unequal numbers of image tokens, {sorted(set(counts.tolist()))}: expected "
                f"{self.visual.patches} in each."
            )
        starts = is_image.long().argmax(1)
        first, count = int(starts[0]), self.visual.patches
        if not bool((counts == count).all()) or not bool(is_image[:, first : first + count].all()):
            raise FedsimError(
                f"a prompt holds {int(counts[0])} image tokens (number "
                f"{self.own.config.image_token_id}): expected {count}, consecutive and at the "
                "same positions in every prompt of a batch."
            )
        return question[:, :first], question[:, first + count :]


class _ClipEncoder(VisionEncoder):
    def __init__(self, wrapped: Any) -> None:
        self._wrapped = wrapped
        tower = wrapped.model.vision_tower
        self._tower = getattr(tower, "vision_model", tower)  # older releases nest it

    def embed(self, images: Tensor) -> Tensor:
        side = self._wrapped.config.vision_config.image_size
        if images.shape[-2:] != (side, side):
            raise FedsimError(
                f"LLaVA reads images of {side} x {side} pixels, got {tuple(images.shape[-2:])}. Resize them."
            )
        return self._tower.pre_layrnorm(self._tower.embeddings(images))

    def run(self, number: int, stream: Stream, seen: Seen | None = None) -> Tensor:
        _refuse_shares(stream)
        output = self._tower.encoder.layers[number](stream.hidden_states, attention_mask=stream.mask(causal=False))
        return output[0] if isinstance(output, tuple) else output

    def view(self, number: int) -> _ClipView:
        return _ClipView(number, self._tower.encoder.layers[number])

    def project(self, features: Tensor) -> Tensor:
        return self._wrapped.model.multi_modal_projector(features)


class _ClipView:
    def __init__(self, number: int, layer: Any) -> None:
        self.number, self._layer = number, layer

    def queries_keys(self, stream: Stream, rows: slice = _ALL) -> tuple[Tensor, Tensor]:
        attention, hidden = self._layer.self_attn, self._layer.layer_norm1(stream.hidden_states)
        return _heads(attention.q_proj(hidden[:, rows]), attention.head_dim), _heads(
            attention.k_proj(hidden), attention.head_dim
        )

    def attention(self, stream: Stream, rows: slice | None = None) -> Tensor:
        chosen_rows = rows or _ALL
        return _weights(*self.queries_keys(stream, chosen_rows), stream.mask(causal=False), chosen_rows)


class _LlamaLanguage(LanguageModel):
    def __init__(self, wrapped: Any) -> None:
        self._inner = wrapped.model.language_model
        self._layers = LlamaLayers(_causal(wrapped))

    def embed(self, tokens: Tensor) -> Tensor:
        return self._layers.embed(tokens)

    def run(self, number: int, stream: Stream, held: PromptCache | None, seen: Seen | None = None) -> Tensor:
        _refuse_shares(stream)
        store: Any = _Passing() if held is None else held.store
        place = self._layers.place(stream.hidden_states, stream.positions)
        output = self._layers.layer(number, stream.hidden_states, place, stream.mask(causal=True), store)
        if held is not None:
            held.add(number, stream)
        return output

    def step(self, number: int, hidden: Tensor, held: PromptCache) -> Tensor:
        place = self._layers.place(hidden, held.following[number][:, None])
        output = self._layers.layer(number, hidden, place, held.mask(number, hidden), held.store)
        held.mark_cached(number)
        return output

    def view(self, number: int) -> _LlamaView:
        return _LlamaView(number, self._inner.layers[number], partial(self._layers.place))

    def score(self, hidden: Tensor) -> Tensor:
        return self._layers.score(hidden)


class _LlamaView:
    def __init__(self, number: int, layer: Any, place: Any) -> None:
        self.number, self._layer, self._place = number, layer, place

    def queries_keys(self, stream: Stream, rows: slice = _ALL) -> tuple[Tensor, Tensor]:
        from fedsim.core.foreign.transformers import apply_rotary_pos_emb  # noqa: PLC0415 - an extra

        attention, hidden = self._layer.self_attn, self._layer.input_layernorm(stream.hidden_states)
        queries, keys = (
            _heads(attention.q_proj(hidden[:, rows]), attention.head_dim),
            _heads(attention.k_proj(hidden), attention.head_dim),
        )
        cosine, sine = self._place(stream.hidden_states, stream.positions)
        turned, _ = apply_rotary_pos_emb(queries, queries, cosine[:, rows], sine[:, rows])
        return turned, apply_rotary_pos_emb(keys, keys, cosine, sine)[1]

    def attention(self, stream: Stream, rows: slice | None = None) -> Tensor:
        chosen_rows = rows or _ALL
        queries, keys = self.queries_keys(stream, chosen_rows)
        keys = keys.repeat_interleave(queries.shape[1] // keys.shape[1], 1)
        return _weights(queries, keys, stream.mask(causal=True), chosen_rows)


class _Passing:
    """Cache that stores no keys."""

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return keys, values


def _causal(wrapped: Any) -> Any:
    """Return the language model and its output layer as a separate model."""
    inner = wrapped.model.language_model
    return SimpleNamespace(config=inner.config, model=inner, get_output_embeddings=lambda: wrapped.lm_head)


def _heads(projected: Tensor, features: int) -> Tensor:
    return projected.unflatten(-1, (-1, features)).transpose(1, 2)


def _weights(queries: Tensor, keys: Tensor, mask: Tensor | None, rows: slice) -> Tensor:
    scores = queries @ keys.mT * queries.shape[-1] ** -0.5
    if mask is not None:
        scores = scores + (mask if mask.shape[2] == 1 else mask[:, :, rows])
    return torch.softmax(scores, -1)


def _refuse_shares(stream: Stream) -> None:
    if stream.shares is not None:
        raise FedsimError(
            "this model's attention does not support token weights. Drop visual tokens instead, or use 'tiny-vlm'."
        )
