"""Tiny VLM: a vision transformer, a projector and a Llama of six small layers, which answers questions about images.

Papers: Liu et al. 2023, arXiv 2304.08485 and 2310.03744 (vision encoder, two-layer projector, causal language model;
features of the encoder's second to last layer). Every size is chosen here. All visual tokens come before the question.
Leakage: the patch embedding adds a learned position, so its gradient and that of the positions contain the images; a
visual token that a reducer drops before the language model has no gradient in the language model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.core.errors import FedsimError
from fedsim.core.nets import checkpoints
from fedsim.core.nets.visual import PromptCache, Stream, VisualShape
from fedsim.core.registry import model
from fedsim.core.types import Config, InputSpec
from fedsim.data._grid_words import GridWords
from fedsim.models._inputs import image_shape
from fedsim.models._llama_block import LlamaBlock
from fedsim.models._vision_language import LanguageModel, Seen, VisionEncoder, VisionLanguage

_TILE = 14
_HEADS = 4


class TinyVlmConfig(Config):
    """Settings of the tiny VLM."""

    dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="probability p of dropping an entry: after the softmax, and both parts of a block",
    )
    patch: int = Field(default=7, ge=1, description="side of a patch in pixels")
    encoder_width: int = Field(default=96, ge=1, description="size of a token in the vision encoder")
    encoder_blocks: int = Field(default=4, ge=1, description="blocks of the vision encoder")
    encoder_hidden: int = Field(default=256, ge=1, description="units of an MLP in the vision encoder")
    feature_layer: int = Field(
        default=-2, le=-1, description="encoder block with the projected output, counted from the last (-1)"
    )
    width: int = Field(default=128, ge=1, description="size of a token in the language model")
    blocks: int = Field(default=6, ge=1, description="blocks of the language model")
    hidden: int = Field(default=344, ge=1, description="units of an MLP in the language model")
    trained: bool = Field(default=False, description="start from the weights of `fedsim bench model digit-grids`")


@model("tiny-vlm", summary="vision-language model of 1.7 M parameters, 64 visual tokens", related="2304.08485")
def tiny_vlm(config: TinyVlmConfig, spec: InputSpec) -> nn.Module:
    """Build the model.

    Raises:
        FedsimError: the inputs are not grids, sizes are inconsistent, or no trained weights exist.
    """
    channels, height, columns = image_shape(spec, "tiny-vlm", config.patch)
    if height % config.patch or columns % config.patch:
        raise FedsimError(
            f"model 'tiny-vlm' cuts images into {config.patch} x {config.patch} patches, got {height} x {columns} "
            "pixels. Set model.patch to a divisor of both."
        )
    for name, width in (("encoder_width", config.encoder_width), ("width", config.width)):
        if width % (2 * _HEADS):
            raise FedsimError(f"model.{name} is {width}: expected a multiple of {2 * _HEADS}.")
    if -config.feature_layer > config.encoder_blocks:
        raise FedsimError(
            f"model.feature_layer is {config.feature_layer}, and the model has "
            f"{config.encoder_blocks} encoder blocks: expected {-config.encoder_blocks} to -1."
        )
    words = GridWords(height // _TILE)
    if len(words.words) != spec.classes:
        raise FedsimError(
            f"model 'tiny-vlm' knows {len(words.words)} words for images of {height} pixels, and the data has "
            f'{spec.classes}. Set data.name = "digit-grids".'
        )
    built = TinyVlm(config, (height // config.patch, columns // config.patch), channels, words)
    return _with_trained_weights(built) if config.trained else built


@dataclass
class _Sizes:
    """Settings of a block."""

    dropout: float
    width: int
    hidden: int
    heads: int = _HEADS
    key_value_heads: int = _HEADS
    base: float = 10_000.0
    epsilon: float = 1e-5


class TinyVlm(VisionLanguage):
    """Images (B, C, H, W), questions (B, 4) and answers to logits of the answer's tokens."""

    _signs: Tensor

    def __init__(self, config: TinyVlmConfig, grid: tuple[int, int], channels: int, words: GridWords) -> None:
        wide = config.encoder_width
        super().__init__(
            VisualShape(
                grid=grid,
                encoder_layers=config.encoder_blocks,
                feature_layer=config.encoder_blocks + config.feature_layer,
                layers=config.blocks,
                encoder_width=wide,
                width=config.width,
                words=words.words,
                vocabulary=len(words.words),
            )
        )
        self.end = words.of("<eos>")
        begin = [words.of(word) for word in ("<bos>", "<q>", "<a>")]
        self.register_buffer("_signs", torch.tensor(begin), persistent=False)
        self.patches = nn.Conv2d(channels, wide, config.patch, config.patch)
        self.class_token = nn.Parameter(torch.empty(1, 1, wide))
        self.positions = nn.Parameter(torch.empty(1, 1 + self.visual.patches, wide))
        sizes = _Sizes(config.dropout, wide, config.encoder_hidden)
        self.encoder = nn.ModuleList(LlamaBlock(sizes) for _ in range(config.encoder_blocks))
        self.encoder_norm = nn.RMSNorm(wide, eps=sizes.epsilon)
        self.projector = nn.Sequential(nn.Linear(wide, config.width), nn.GELU(), nn.Linear(config.width, config.width))
        self.embed_tokens = nn.Embedding(len(words.words), config.width)
        sizes = _Sizes(config.dropout, config.width, config.hidden)
        self.layers = nn.ModuleList(LlamaBlock(sizes) for _ in range(config.blocks))
        self.norm = nn.RMSNorm(config.width, eps=sizes.epsilon)
        self.lm_head = nn.Linear(config.width, len(words.words), bias=False)
        self._initialise()

    def vision(self) -> VisionEncoder:
        """Return the vision encoder."""
        return _TinyEncoder(self)

    def language(self) -> LanguageModel:
        """Return the language model."""
        return _TinyLanguage(self)

    def laid_out(self, question: Tensor) -> tuple[Tensor, Tensor]:
        """Return the begin token, and the question between its marker tokens."""
        begin, ask, say = self._signs.expand(len(question), -1).unsqueeze(-1).unbind(1)
        return begin, torch.cat((ask, question, say), 1)

    def _initialise(self) -> None:
        """Initialise weights from N(0, 1 / inputs), smaller where they write to the residual stream of a deep model."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for blocks in (self.encoder, self.layers):
            for name, parameter in blocks.named_parameters():
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    parameter.data.div_(math.sqrt(2 * len(blocks)))
        nn.init.normal_(self.projector.get_parameter("2.weight"), std=1.5 / math.sqrt(self.visual.width))
        nn.init.normal_(self.embed_tokens.weight)
        nn.init.normal_(self.class_token, std=0.2)
        nn.init.normal_(self.positions, std=0.2)


class _View:
    """Attention of a block."""

    def __init__(self, number: int, block: LlamaBlock, *, is_causal: bool) -> None:
        self.number, self._block, self._is_causal = number, block, is_causal

    def queries_keys(self, stream: Stream) -> tuple[Tensor, Tensor]:
        return self._block.self_attn.queries_keys(self._block.input_layernorm(stream.hidden_states), stream.positions)

    def attention(self, stream: Stream, rows: slice | None = None) -> Tensor:
        chosen, attends = rows or slice(None), self._block.self_attn
        queries, keys = attends.queries_keys(
            self._block.input_layernorm(stream.hidden_states), stream.positions, chosen
        )
        mask = stream.mask(causal=self._is_causal)
        chosen_mask = mask if mask is None or mask.shape[2] == 1 else mask[:, :, chosen]
        return attends.weights(queries, keys, chosen_mask, stream.shares)


class _TinyEncoder(VisionEncoder):
    def __init__(self, tiny: TinyVlm) -> None:
        self._tiny = tiny

    def embed(self, images: Tensor) -> Tensor:
        patches = self._tiny.patches(images).flatten(2).transpose(1, 2)
        if patches.shape[1] != self._tiny.visual.patches:
            row, column = self._tiny.visual.grid
            raise FedsimError(
                f"model 'tiny-vlm' reads images of {row} x {column} patches, got images of shape "
                f"{tuple(images.shape[1:])}. Use the data set that it was built for."
            )
        return torch.cat((self._tiny.class_token.expand(len(images), -1, -1), patches), 1) + self._tiny.positions

    def run(self, number: int, stream: Stream, seen: Seen | None = None) -> Tensor:
        mask = stream.mask(causal=False)
        return self._tiny.encoder[number](
            stream.hidden_states, attention_mask=mask, positions=stream.positions, shares=stream.shares, seen=seen
        )

    def view(self, number: int) -> _View:
        return _View(number, self._tiny.encoder[number], is_causal=False)  # type: ignore[arg-type]

    def project(self, features: Tensor) -> Tensor:
        return self._tiny.projector(self._tiny.encoder_norm(features))


class _TinyLanguage(LanguageModel):
    def __init__(self, tiny: TinyVlm) -> None:
        self._tiny = tiny

    def embed(self, tokens: Tensor) -> Tensor:
        return self._tiny.embed_tokens(tokens)

    def run(self, number: int, stream: Stream, held: PromptCache | None, seen: Seen | None = None) -> Tensor:
        update_cache = None if held is None else partial(held.store.update, layer=number)
        output = self._tiny.layers[number](
            stream.hidden_states,
            attention_mask=stream.mask(causal=True),
            positions=stream.positions,
            cache=update_cache,
            shares=stream.shares,
            seen=seen,
        )
        if held is not None:
            held.add(number, stream)
        return output

    def step(self, number: int, hidden: Tensor, held: PromptCache) -> Tensor:
        output = self._tiny.layers[number](
            hidden,
            attention_mask=held.mask(number, hidden),
            positions=held.following[number][:, None],
            cache=partial(held.store.update, layer=number),
        )
        held.mark_cached(number)
        return output

    def view(self, number: int) -> _View:
        return _View(number, self._tiny.layers[number], is_causal=True)  # type: ignore[arg-type]

    def score(self, hidden: Tensor) -> Tensor:
        return self._tiny.lm_head(self._tiny.norm(hidden))


def _with_trained_weights(built: TinyVlm) -> TinyVlm:
    """Load the trained weights.

    Raises:
        FedsimError: the weights do not exist, or have other sizes.
    """
    path = checkpoints.cache() / checkpoints.TINY_VLM / checkpoints.WEIGHTS
    if not path.is_file():
        raise FedsimError("model.trained: no trained weights found. Train them: fedsim bench model digit-grids")
    weights = torch.load(checkpoints.verify_checksum(path), weights_only=True)
    try:
        built.load_state_dict({name: weight.float() for name, weight in weights.items()})
    except RuntimeError as error:
        raise FedsimError(
            "model.trained: the weights belong to the model's usual sizes and to grids of 4 x 4 cells. Leave other "
            "settings of the model out."
        ) from error
    return built
