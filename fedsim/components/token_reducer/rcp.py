"""rcp: small trained modules drop visual tokens by corrected attention, and repair the states that predict the answer.

Idea: Dropping tokens shifts a frozen model's states out of distribution. Learn which to drop, and correct the states.
Equation: keep j if ln a_j - mean ln a + look_j + mlp(v_j) + b > 0; later x += s up((1 + F c) gelu(down x) + G c), c of
    the kept positions, the mean of the dropped states and x itself, only at positions that predict the answer
Assumes: a frozen model that reads images and text; modules that were trained for it.
Leaks: the number of kept tokens depends on image and question. The modules' gradients contain sums over dropped and
    kept tokens.
Fails: untrained, it keeps nearly all tokens. Layers before the first drop process all tokens.
Source: arXiv 2604.04972 and the authors' code; no dropout, and the summary uses only states dropped by the same layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Literal, cast, final

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.components.token_reducer._choosing import or_best
from fedsim.components.token_reducer._rcp_parts import Lost, Pruner, Repair, choose_tokens
from fedsim.core import seeding
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import VisualTokenReducer
from fedsim.core.nets import checkpoints
from fedsim.core.nets.visual import LayerView, Stream, VisualReducer, VisualShape
from fedsim.core.registry import component
from fedsim.core.types import Config

_HEADS = 4  # heads of a pruner


class RcpConfig(Config):
    """Settings of pruners and repair."""

    layers: tuple[int, ...] = Field(
        default=(1, 3), min_length=1, description="layers of the language model before which tokens are dropped, from 0"
    )
    repairs: tuple[int, ...] = Field(
        default=(2, 5),
        description="layers after which hidden states are repaired, from the tokens lost in the nearest earlier drop",
    )
    inner: int = Field(
        default=32, ge=4, multiple_of=_HEADS, description="size inside a pruner, a multiple of its 4 heads"
    )
    queries: int = Field(default=4, ge=1, description="learned queries of a pruner")
    size: int = Field(
        default=32, ge=1, description="size of the summary of the lost tokens, and of the repair's hidden layer"
    )
    temperature: float = Field(default=0.2, gt=0, description="of the gradient of a choice")
    weights: Literal["", "rcp-50", "rcp-37", "rcp-37-unmatched", "rcp-37-unmended"] = Field(
        default="", description="trained parts of `fedsim bench model`; none: first weights"
    )


@final
@component(
    "rcp",
    summary="learns which visual tokens to drop, and repairs the hidden states of the others",
    tier="research",
    paper="2604.04972",
    fidelity="variant",
    deviates="no dropout; the lost states are the states that the layer itself dropped",
    paper_steps=(
        ("pruning by attention, look and a network", "RcpReducer.before_layer"),
        ("repair of the lost states", "RcpReducer.after_layer"),
    ),
)
class Rcp(VisualTokenReducer[RcpConfig]):
    """Adds pruners and repairs between a model's layers."""

    def reducer(self, visual: VisualShape, generator: torch.Generator) -> VisualReducer:
        """Return the module.

        Raises:
            FedsimError: the trained weights are missing, or have other sizes.
        """
        with seeding.isolate_randomness(int(torch.randint(2**31, (), generator=generator))):
            reducer = RcpReducer(self.config, visual)
        return _with_trained(reducer, self.config.weights) if self.config.weights else reducer

    def does_not_fit(self, visual: VisualShape) -> str | None:
        """Refuse invalid layers, and repairs without a preceding drop."""
        layers, repairs = self.config.layers, self.config.repairs
        if any(first >= second for first, second in pairwise((0, *layers, visual.layers))):
            return f"layers is {layers}, expected ascending numbers from 1 to {visual.layers - 1}"
        if any(first >= second for first, second in pairwise((layers[0] - 1, *repairs, visual.layers))):
            return f"repairs is {repairs}, expected ascending numbers from {layers[0]} to {visual.layers - 1}"
        return None


class RcpReducer(VisualReducer):
    """Pruners, summaries and repairs. In training, attention to dropped tokens is 0; otherwise they are removed.

    Attributes:
        temperature: temperature of the straight-through gradient.
        noise: random source of logistic noise on the logits in training; None for none.
        repairs: repair modules by layer number.
    """

    def __init__(self, config: RcpConfig, visual: VisualShape) -> None:
        super().__init__()
        self.temperature, self.noise = config.temperature, cast("torch.Generator | None", None)
        self._patches, width = visual.patches, visual.width
        layers, size = config.layers, config.size
        self.pruners = nn.ModuleDict(
            {str(layer): Pruner(width, config.inner, config.queries, _HEADS) for layer in layers}
        )
        self.lost = nn.ModuleDict({str(layer): Lost(visual.patches, width, size) for layer in layers})
        self.repairs = nn.ModuleDict({str(repair): Repair(width, size) for repair in config.repairs})
        self._sources = {repair: max(layer for layer in config.layers if layer <= repair) for repair in config.repairs}

    def before_layer(self, stream: Stream, layer: LayerView) -> Stream:
        """Drop tokens, and store their summary in the stream's notes."""
        name = str(layer.number)
        if name not in self.pruners:
            return stream
        with torch.no_grad():
            attention = layer.attention(stream, stream.question_slice).mean((1, 2))[:, stream.visual]
        before = _get_remaining_mask(stream)
        visual, question = (
            stream.hidden_states[:, stream.visual],
            stream.hidden_states[:, stream.question_slice].mean(1),
        )
        logits = self.pruners[name](visual, attention, before > 0, question)
        kept = before * choose_tokens(logits, self.temperature, self._noise(logits))
        stays = or_best(kept > 0, logits.masked_fill(before <= 0, -torch.inf), stream)
        kept = kept.where((kept > 0) | ~stays, 1.0)
        lost = self.lost[name](self._scatter_to_image(kept, stream), visual, before - kept)
        return self._drop_tokens(stream, kept).with_notes(**{_note(layer.number): lost})

    def after_layer(self, before: Stream, after: Stream, layer: LayerView) -> Stream:
        """Correct the states that predict the answer."""
        if str(layer.number) not in self.repairs:
            return after
        lost = after.notes[_note(self._sources[layer.number])]
        mended = self.repairs[str(layer.number)](after.hidden_states[:, after.prediction_slice], lost)
        return after.with_hidden_states(torch.cat((after.hidden_states[:, : after.last], mended), 1))

    def after_step(self, hidden: Tensor, layer: int, notes: Mapping[str, Tensor]) -> Tensor:
        """Correct the state of a token during generation."""
        if str(layer) not in self.repairs:
            return hidden
        return self.repairs[str(layer)](hidden, notes[_note(self._sources[layer])])

    def _noise(self, logits: Tensor) -> Tensor | float:
        if self.noise is None or not self.training:
            return 0.0
        uniform = torch.rand(logits.shape, generator=self.noise).clamp(1e-6, 1 - 1e-6)
        return uniform.logit().to(logits)

    def _scatter_to_image(self, kept: Tensor, stream: Stream) -> Tensor:
        """Return the mask of kept patches of the image, (B, N)."""
        places = stream.patches.where(stream.patches >= 0, self._patches)
        return kept.new_zeros(len(kept), self._patches + 1).scatter(1, places, kept)[:, :-1]

    def _drop_tokens(self, stream: Stream, kept: Tensor) -> Stream:
        if not self.training:
            return stream.keep_where(kept > 0)
        shares = torch.ones_like(stream.hidden_states[..., 0]) if stream.shares is None else stream.shares
        front, tail = shares[:, : stream.front], shares[:, stream.visual.stop :]
        return replace(stream, shares=torch.cat((front, kept, tail), 1))


def _note(layer: int) -> str:
    return f"rcp.lost.{layer}"


def _get_remaining_mask(stream: Stream) -> Tensor:
    """Return 1 for visual tokens that no layer has dropped, else 0, (B, n)."""
    if stream.shares is not None:
        return stream.shares[:, stream.visual]
    weights = torch.ones_like(stream.hidden_states[:, stream.visual, 0])
    return weights if stream.present is None else weights * stream.present[:, stream.visual]


def _with_trained(reducer: RcpReducer, name: str) -> RcpReducer:
    path = checkpoints.cache() / name / checkpoints.WEIGHTS
    if not path.is_file():
        raise FedsimError(f"component 'rcp': no trained weights '{name}' found. Train them: fedsim bench model {name}")
    checkpoints.verify_checksum(path)
    try:
        reducer.load_state_dict(torch.load(path, weights_only=True))
    except RuntimeError as error:
        raise FedsimError(
            f"component 'rcp': weights '{name}' belong to the usual sizes and to tiny-vlm. Leave other settings out."
        ) from error
    return reducer
