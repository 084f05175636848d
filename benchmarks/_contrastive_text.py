"""LAMP's moves of words, without its descent, on the gradient of a contrastive loss: which text do two views give away?

Vectors in place of tokens do not say what a second view repeats or where a sentence ends, so tokens alone are searched:
swapped between any two places of the batch, moved, and replaced by others that were read, as long as the mean over
tensors of the gradients' cosines grows. Lengths and the token that ends a sentence are known. Paper: Balunovic et al.
2022, arXiv 2202.08827, which attacks classifiers.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from fedsim.core.masks import inject_masks, without_dropout
from fedsim.core.types import DropoutSite, Loss, Masks, Tensors

_TABLE = "encoder.embed_tokens.weight"
_TINY = 1e-30
_EXACT = 1e-6


class Contrast:
    """Compares the gradient of a batch with an observed one.

    Args:
        model: with two views, and the weights that the client received.
        loss: the client's.
        observed: its gradient.
        sites: where the model drops out, for the whole batch.
        masks: of the client, or None to leave dropout out.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, observed: Tensors, sites: tuple[DropoutSite, ...], masks: Masks | None
    ) -> None:
        self._model, self._loss, self._sites, self._masks = model.train(), loss, sites, masks
        named = dict(model.named_parameters())
        names = [name for name in named if name != _TABLE and bool(observed[name].any())]
        self._parameters, self._observed = [named[name] for name in names], [observed[name] for name in names]
        rows = observed[_TABLE].any(1).nonzero().flatten()
        self.words = rows

    def distance(self, tokens: Tensor) -> float:
        """Return 1 - the mean over tensors of the cosines of gradients of a batch (B, T) and the observed one."""
        with self._dropout():
            loss = self._loss(self._model(tokens), torch.zeros(len(tokens), dtype=torch.long))
        gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True, materialize_grads=True)
        pairs = zip(gradients, self._observed, strict=True)
        cosines = [(slope * g).sum() / (slope.norm() * g.norm()).clamp_min(_TINY) for slope, g in pairs]
        return 1.0 - float(torch.stack(cosines).mean())

    def _dropout(self) -> AbstractContextManager[None]:
        return without_dropout() if self._masks is None else inject_masks(self._sites, self._masks)


def searched(contrast: Contrast, known: Tensor, tries: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the first random batch and the one with the closest gradient.

    Args:
        contrast: with the observed gradient.
        known: tokens (B, T) that are given, and -1 where one is searched.
        tries: changes that are tried.
        generator: decides.
    """
    places = (known < 0).nonzero()
    words = contrast.words[~torch.isin(contrast.words, known)]
    first = known.clone()
    first[known < 0] = words[torch.randint(len(words), (len(places),), generator=generator)]
    dealt = torch.randperm(len(places), generator=generator)[: len(words)]
    first[tuple(places[dealt].T)] = words[: len(dealt)]
    tokens, least = first, contrast.distance(first)
    for number in range(tries):
        if least < _EXACT:
            break
        one, other = torch.randint(len(places), (2,), generator=generator).tolist()
        changed = tokens.clone()
        if number % 2:
            changed[tuple(places[one])] = words[int(torch.randint(len(words), (), generator=generator))]
        else:
            changed[tuple(places[one])], changed[tuple(places[other])] = (
                tokens[tuple(places[other])],
                tokens[tuple(places[one])],
            )
        distance = contrast.distance(changed)
        if distance < least:
            tokens, least = changed, distance
    return first, tokens
