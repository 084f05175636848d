"""Small vision-language models in double precision, and examples for them."""

from typing import Any, cast

import torch
from torch import Tensor

from fedsim.core import registry, seeding
from fedsim.core.nets.visual import VisualReducer
from fedsim.core.types import InputSpec
from fedsim.data._grid_words import GridWords
from fedsim.models.tiny_vlm import TinyVlm

CELLS = 2
WORDS = GridWords(CELLS)
PATCHES = 16
SPEC = InputSpec((1, 28, 28), len(WORDS.words), (0.0,), (1.0,))
_SIZES = {"encoder_width": 16, "encoder_hidden": 16, "encoder_blocks": 3, "width": 16, "hidden": 24, "blocks": 4}


def small_vlm(*reducers: VisualReducer, seed: int = 0, **settings: Any) -> TinyVlm:
    """A model of 16 patches and 4 layers, with reducers."""
    method = registry.get("model", "tiny-vlm")
    with seeding.isolate_randomness(seed):
        model = cast("TinyVlm", method.make(method.config.model_validate(_SIZES | settings), SPEC)).double().eval()
    model.reducers.extend(reducers)
    return model


def examples(count: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Images, questions and the first token of their answers."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 1, 28, 28, dtype=torch.double, generator=generator)
    question = torch.randint(len(WORDS.words), (count, 4), generator=generator)
    return images, question, torch.randint(len(WORDS.words), (count, 1), generator=generator)


def prepared(name: str, model: TinyVlm | None = None, **settings: Any) -> TinyVlm:
    """A small model with a component."""
    method = registry.get("component", name)
    own = method.make(method.config.model_validate(settings)).with_name(name)
    return own.prepare(model or small_vlm(), torch.Generator().manual_seed(1))


def attended(own: tuple[Tensor, Tensor, Tensor], number: int) -> Tensor:
    """What the prompt's last token attends to of each patch at a layer of the small model, mean over heads, (B, n)."""
    rows: list[Tensor] = []

    class Looking(VisualReducer):
        def after_layer(self, before, after, layer):
            if layer.number == number:
                rows.append(layer.attention(before)[:, :, before.last, before.visual].mean(1))
            return after

    small_vlm(Looking())(*own)
    return rows[0]
