"""Probing: extract the hidden states of a layer, fit a probe on known inputs, and predict the classes of others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fedsim.core.errors import FedsimError, NotApplicable, did_you_mean
from fedsim.core.hooks import Probe
from fedsim.core.nets.kv_cache import KVCache, stack_of
from fedsim.core.nets.layer_calls import layer_outputs
from fedsim.core.nets.masks import disable_dropout
from fedsim.generation.reading import evaluation_mode

_AT_ONCE = 64
_TEXTS_AT_ONCE = 16  # limits memory: states of all layers of many long texts are large


def hidden_states(model: nn.Module, layer: str, inputs: Tensor) -> Tensor:
    """Return a layer's outputs for each input, detached, shape (N, ...). The model is restored.

    Args:
        model: the model.
        layer: name of a module that is called once per forward pass and returns a tensor (N, ...).
        inputs: shape (N, ...).

    Raises:
        FedsimError: unknown layer, or it is not called exactly once.
    """
    names = [name for name, _ in model.named_modules() if name]
    if layer not in names:
        raise FedsimError(f"the model has no layer '{layer}'.{did_you_mean(layer, names)}")
    states: list[Tensor] = []
    with evaluation_mode(list(model.modules())), disable_dropout():
        for chunk in inputs.split(_AT_ONCE):
            with layer_outputs(model, [layer]) as seen:
                model(chunk)
            if len(seen) != 1:
                raise FedsimError(f"the model calls layer '{layer}' {len(seen)} times, expected once. Choose another.")
            states.append(seen[0][1])
    return torch.cat(states)


def layer_states(model: nn.Module, inputs: Tensor, layers: Sequence[int]) -> Iterator[Tensor]:
    """Yield outputs of layers of a language model, text batch by text batch, shape (layers, B, T, width).

    The model is restored. A position's state depends only on the tokens up to it.

    Args:
        model: language model with individually callable layers.
        inputs: tokens (N, T).
        layers: layer indices from 0, ascending.

    Raises:
        NotApplicable: the model's layers are unknown.
    """
    stack = stack_of(model)
    if stack is None:
        raise NotApplicable("the layers of this model are not known. Choose a language model of Llama's kind.")
    length = inputs.shape[1]
    mask = torch.full((length, length), -torch.inf).triu(1)[None, None]
    for chunk in inputs.split(_TEXTS_AT_ONCE):
        with evaluation_mode(list(model.modules())), disable_dropout(), torch.no_grad():
            hidden = stack.embed(chunk)
            place = stack.place(hidden, torch.arange(length).expand(len(chunk), -1))
            store, states = KVCache(stack.depth, len(chunk)), list[Tensor]()
            for number in range(layers[-1] + 1):
                hidden = stack.layer(number, hidden, place, mask.to(hidden.dtype), store)
                if number in layers:
                    states.append(hidden)
        yield torch.stack(states)


def probe(
    method: Probe[Any],
    model: nn.Module,
    layer: str,
    known: tuple[Tensor, Tensor],
    unknown: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Return the probability of each class for each unknown input, shape (N, K).

    Hidden states are averaged over all dimensions but the first and the last.

    Args:
        method: the probe.
        model: provides the hidden states.
        layer: as in `hidden_states`.
        known: inputs with their classes, for fitting.
        unknown: inputs to classify.
        generator: random source of the probe.

    Raises:
        NotApplicable: the states or labels do not suit the probe.
        FedsimError: as in `hidden_states`.
    """
    inputs, labels = known
    learned = method.fit(_vectors(hidden_states(model, layer, inputs)), labels, generator)
    return method.predict(learned, _vectors(hidden_states(model, layer, unknown)))


def _vectors(hidden: Tensor) -> Tensor:
    return hidden.flatten(1, -2).mean(1) if hidden.ndim > 2 else hidden  # noqa: PLR2004 - (N, width)
