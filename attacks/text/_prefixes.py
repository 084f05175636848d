"""Compute the inputs of the attentions in a language model's first blocks, at prefixes of a text."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from fedsim.core.nets.kv_cache import Draft, IncrementalForward, KVCache, stack_of
from fedsim.core.nets.layer_calls import read_by, read_while
from fedsim.core.types import DropoutSite


def drops_in_front(model: nn.Module, site: DropoutSite, layer: str) -> bool:
    """Return whether dropout at `site` may precede the inputs of the attention whose first layer is `layer`.

    Modules are assumed to run in the order of their registration; a functional site outside all modules may run
    anywhere.
    Adapters drop only their own inputs.
    """
    place, order = layer.rpartition(".")[0], {name: number for number, (name, _) in enumerate(model.named_modules())}
    reads = re.match(rf"{re.escape(place)}\.[^.]+\.", site.name) is not None
    return bool(site.rate) and (reads or order.get(site.name, 0) < order[place])


class Front:
    """The first blocks of a model, as a copy; later blocks are neither copied nor run.

    Args:
        model: the model of the observation.
        layers: name of the first layer in the attention of each block that is used, at least two.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str]) -> None:
        container, number = _block(layers[-1])
        unused = list(model.get_submodule(container).children())[number + 1 :]
        self._depth = number + 1
        self._model = copy.deepcopy(model, {id(block): nn.Identity() for block in unused}).eval()
        self._layers = list(layers)
        self._first = self._model.get_submodule(".".join(map(str, _block(layers[0]))).lstrip("."))

    def read_first(self, tokens: Tensor) -> Tensor:
        """Return the first attention's inputs at all tokens (N, t), shape (N, t, width)."""
        return read_by(self._model, self._layers[:1], tokens, nullcontext())[0]

    def read_behind(self, prefixes: Tensor, tokens: Tensor) -> list[Tensor]:
        """Return each later attention's inputs at each of tokens (K,) appended to each of prefixes (N, t).

        If the layers of the model are known, the prefixes are processed once, and the tokens are branches of a draft.

        Returns:
            A tensor for each attention, of shape (N, K, width).
        """
        stack, (count, length) = stack_of(self._model), prefixes.shape
        if stack is None or not length:
            longer = torch.cat((prefixes.repeat_interleave(len(tokens), 0), tokens.repeat(count)[:, None]), 1)
            return [vectors.unflatten(0, (count, len(tokens))) for vectors in self.read_last(longer)]
        branches = Draft(tuple(tokens.tolist()), (-1,) * len(tokens))
        starts, store = [0] * count, KVCache(stack.depth, count)
        reading = IncrementalForward(stack, store, prefixes.tolist(), starts, [branches] * count, prefixes.device)

        def run() -> None:
            hidden = reading.embed()
            for number in range(self._depth):
                hidden = reading.layer(number, hidden)

        return [vectors[:, length:] for vectors in read_while(self._model, self._layers[1:], run)]

    def read_last(self, tokens: Tensor) -> list[Tensor]:
        """Return each later attention's inputs at the last of tokens (N, t), shape (N, width) each."""
        with self._last_only():
            return [vectors[:, -1] for vectors in read_by(self._model, self._layers[1:], tokens, nullcontext())]

    def read_all(self, tokens: Tensor) -> list[Tensor]:
        """Return each later attention's inputs at all tokens (N, t), shape (N, t, width) each."""
        return read_by(self._model, self._layers[1:], tokens, nullcontext())

    def looks_ahead(self) -> bool:
        """Return whether the second attention's input at the first of two tokens depends on the second token."""
        first, second = read_by(self._model, self._layers[1:2], torch.tensor([[0, 1], [0, 0]]), nullcontext())[0][:, 0]
        return not torch.allclose(first, second, rtol=1e-4, atol=1e-5)

    def knows_places(self) -> bool:
        """Return whether the first attention's input at a token depends on its position."""
        first, second = self.read_first(torch.tensor([[0, 0]]))[0]
        return not torch.allclose(first, second, rtol=1e-4, atol=1e-5)

    @contextmanager
    def _last_only(self) -> Iterator[None]:
        """Run the first block's MLP at the last token only, if only the second attention is used."""
        mlp = dict(self._first.named_children()).get("mlp")
        if mlp is None or len(self._layers) > 2:  # noqa: PLR2004
            yield
            return
        handle = mlp.register_forward_pre_hook(lambda _module, inputs: (inputs[0][:, -1:], *inputs[1:]))
        try:
            yield
        finally:
            handle.remove()


def _block(layer: str) -> tuple[str, int]:
    """Return the name of the module list and the index of the block that contains a layer."""
    match = re.match(r"(?:(.*)\.)?(\d+)\.", layer)
    assert match is not None
    return match[1] or "", int(match[2])
