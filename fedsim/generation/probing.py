"""Runs probes: reads the hidden states of a layer, has a probe learn from some and tell the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fedsim.core.errors import FedsimError, NotApplicable, nearest
from fedsim.core.hooks import Probe
from fedsim.core.layer_calls import layer_outputs
from fedsim.core.masks import without_dropout
from fedsim.core.past import KeyValues, stack_of
from fedsim.generation.reading import evaluating

_AT_ONCE = 64
_TEXTS_AT_ONCE = 16  # states of all layers of many long texts would fill the memory


def hidden_states(model: nn.Module, layer: str, inputs: Tensor) -> Tensor:
    """Return what a layer returns for each input, detached, shape (N, ...). The model is left as it was.

    Args:
        model: reads the inputs.
        layer: name of a module that the model calls once in a forward pass, and that returns a tensor (N, ...).
        inputs: shape (N, ...).

    Raises:
        FedsimError: there is no such layer, or it is not called once.
    """
    names = [name for name, _ in model.named_modules() if name]
    if layer not in names:
        raise FedsimError(f"the model has no layer '{layer}'.{nearest(layer, names)}")
    states: list[Tensor] = []
    with evaluating(list(model.modules())), without_dropout():
        for some in inputs.split(_AT_ONCE):
            with layer_outputs(model, [layer]) as seen:
                model(some)
            if len(seen) != 1:
                raise FedsimError(f"the model calls layer '{layer}' {len(seen)} times, expected once. Choose another.")
            states.append(seen[0][1])
    return torch.cat(states)


def layer_states(model: nn.Module, inputs: Tensor, layers: Sequence[int]) -> Iterator[Tensor]:
    """Yield what layers of a language model return for some texts after the other, shape (layers, B, T, width).

    The model is left as it was. A place's state has read the tokens up to it, whatever stands behind.

    Args:
        model: a language model whose layers can be run one by one.
        inputs: tokens (N, T).
        layers: numbers from 0, rising.

    Raises:
        NotApplicable: the model's layers are not known.
    """
    stack = stack_of(model)
    if stack is None:
        raise NotApplicable("the layers of this model are not known. Choose a language model of Llama's kind.")
    length = inputs.shape[1]
    mask = torch.full((length, length), -torch.inf).triu(1)[None, None]
    for some in inputs.split(_TEXTS_AT_ONCE):
        with evaluating(list(model.modules())), without_dropout(), torch.no_grad():
            hidden = stack.embed(some)
            place = stack.place(hidden, torch.arange(length).expand(len(some), -1))
            store, states = KeyValues(stack.depth, len(some)), list[Tensor]()
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
    """Return the probability of each class for each asked input, shape (N, K).

    Hidden states of several tokens are averaged over all but the first and the last dimension.

    Args:
        method: the probe.
        model: whose hidden states are read.
        layer: see `hidden_states`.
        known: inputs, and the class of each, to learn from.
        unknown: inputs to tell.
        generator: the probe's randomness.

    Raises:
        NotApplicable: the states or labels do not suit the probe.
        FedsimError: see `hidden_states`.
    """
    inputs, labels = known
    learned = method.fit(_vectors(hidden_states(model, layer, inputs)), labels, generator)
    return method.predict(learned, _vectors(hidden_states(model, layer, unknown)))


def _vectors(hidden: Tensor) -> Tensor:
    return hidden.flatten(1, -2).mean(1) if hidden.ndim > 2 else hidden  # noqa: PLR2004 - (N, width)
