"""Small models that fill in masked places, and calls of the driver on them, for tests of unmaskers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fedsim.core import registry, seeding
from fedsim.core.hooks import GenerationInputs
from fedsim.core.types import Generated, InputSpec, Limits
from fedsim.generation import generate
from tests.components.generating import make, sources


def tiny_llada(vocabulary: int = 9, length: int = 14, blocks: int = 2, seed: int = 0, std: float = 0.4) -> nn.Module:
    """A small model in double precision, whose choices no rounding turns; its weights are no tiny ones."""
    method = registry.get("model", "tiny-llada")
    config = method.config.model_validate({"width": 16, "hidden": 16, "blocks": blocks})
    with seeding.isolate_randomness(seed):
        model = method.make(config, InputSpec((length,), vocabulary, (), (), vocabulary=vocabulary))
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=std)
    return model.double().eval()


class Fixed(nn.Module):
    """Scores that depend on nothing but the place, (T, V); the mask token is the next one behind V."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.own, self.mask_token = scores, scores.shape[-1]

    def forward(self, tokens: Tensor) -> Tensor:
        return self.own.expand(len(tokens), -1, -1)


class MaskAmongWords(nn.Module):
    """A model whose mask token is numbered among the words and scored highest."""

    def __init__(self, own: nn.Module, mask_token: int) -> None:
        super().__init__()
        self.own, self.mask_token = own, mask_token

    def forward(self, tokens: Tensor) -> Tensor:
        return self._renumbered(self.own(self._words(tokens)))

    def read(self, tokens: Tensor, positions: Tensor, store: Any) -> Tensor:
        return self._renumbered(self.own.read(self._words(tokens), positions, store))  # type: ignore[operator]

    def number(self, word: int) -> int:
        return word + (word >= self.mask_token)

    def _words(self, tokens: Tensor) -> Tensor:
        words = tokens - (tokens > self.mask_token).long()
        return words.masked_fill(tokens == self.mask_token, self.own.mask_token)  # type: ignore[arg-type]

    def _renumbered(self, scores: Tensor) -> Tensor:
        high = scores.amax(-1, keepdim=True) + 1
        return torch.cat((scores[..., : self.mask_token], high, scores[..., self.mask_token :]), -1)


class Broken(nn.Module):
    """A model whose scores are no numbers for texts that begin with one token."""

    def __init__(self, own: nn.Module, token: int, value: float) -> None:
        super().__init__()
        self.own, self.token, self.value, self.mask_token = own, token, value, own.mask_token

    def forward(self, tokens: Tensor) -> Tensor:
        scores = self.own(tokens).clone()
        scores[tokens[:, 0] == self.token] = self.value
        return scores

    def read(self, tokens: Tensor, positions: Tensor, store: Any) -> Tensor:
        scores = self.own.read(tokens, positions, store)  # type: ignore[operator]
        is_first = (positions == 0) & (tokens == self.token)
        return scores.masked_fill(is_first.any(1)[:, None, None], self.value)


def run(
    name: str, model: nn.Module, prompts: Sequence[Sequence[int]], places: int, seed: int = 0, **settings: Any
) -> list[Generated]:
    """Fill in so many places behind each prompt."""
    condition = GenerationInputs(tuple(map(tuple, prompts)))
    limits = Limits(max_new_tokens=places)
    return generate(
        make(name, **settings), model, condition, limits, sources(len(prompts), seed), batch_size=len(prompts)
    )
