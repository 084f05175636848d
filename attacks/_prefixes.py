"""What the attention of a language model's first two blocks reads, and the spans of it that their gradients show.

Blocks carry the names of Llama: `layers.0.self_attn` with `q_proj`, `k_proj` and `v_proj`, behind any prefix.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from attacks._subspaces import read_by
from fedsim.types import DropoutSite, Observation, Tensors

_PROJECTIONS = ("q_proj", "k_proj", "v_proj")
_PARTS = (
    "weight",
    "lora_a.weight",
)  # parameters whose gradient's rows are combinations of the layer's inputs
_NOISE = 2 * torch.finfo(torch.float32).eps  # of a single-precision gradient's singular values, over the largest


def attentions(model: nn.Module) -> tuple[str, str] | None:
    """Return the names of the first two attention modules, or None when there are none of these names."""
    names = dict(model.named_modules())
    for name in names:
        prefix = name.removesuffix("layers.0.self_attn.q_proj")
        places = (f"{prefix}layers.0.self_attn", f"{prefix}layers.1.self_attn")
        if prefix != name and f"{places[1]}.q_proj" in names:
            return places
    return None


def shared_gradients(observation: Observation, place: str) -> Tensors:
    """Return the shared gradients whose rows lie in the span of what an attention module reads."""
    names = [f"{place}.{projection}.{part}" for projection in _PROJECTIONS for part in _PARTS]
    return {name: observation.update.tensors[name] for name in names if name in observation.update.tensors}


def drops_in_front(model: nn.Module, site: DropoutSite, place: str) -> bool:
    """Say whether a model may drop out at `site` before the attention `place` reads its inputs.

    Modules run in the order in which they are registered; a site outside of all modules may be anywhere.
    """
    order = {name: number for number, (name, _) in enumerate(model.named_modules())}
    return bool(site.rate) and order.get(site.name, 0) < order[place]


def span(gradients: Tensors) -> Tensor:
    """Return an orthonormal basis (rank, width) of the rows of gradients, up to the rounding of single precision.

    Each counts the same: of values they are far larger than of queries. Gradients of zeros span nothing.
    """
    rows = torch.cat([own.double() / own.double().norm().clamp_min(1e-300) for own in gradients.values()])
    _, values, basis = torch.linalg.svd(rows, full_matrices=False)
    return basis[values > values[0] * _NOISE]


class Front:
    """The first two blocks of a model, which is not changed; blocks behind them are neither copied nor run."""

    def __init__(self, model: nn.Module, places: tuple[str, str]) -> None:
        blocks = list(model.get_submodule(places[0].removesuffix(".0.self_attn")).children())
        self._model = copy.deepcopy(model, {id(block): nn.Identity() for block in blocks[2:]}).eval()
        self._readers = [f"{place}.q_proj" for place in places]
        self._first = self._model.get_submodule(places[0].removesuffix(".self_attn"))

    def read_first(self, tokens: Tensor) -> Tensor:
        """Return what the first attention reads at single tokens (N,), shape (N, width)."""
        return self._read(tokens[:, None], 0)[:, 0]

    def read_last(self, tokens: Tensor) -> Tensor:
        """Return what the second attention reads at the last of tokens (N, t), shape (N, width)."""
        with self._last_only():
            return self._read(tokens, 1)[:, -1]

    def read_all(self, tokens: Tensor) -> Tensor:
        """Return what the second attention reads at all of tokens (N, t), shape (N, t, width)."""
        return self._read(tokens, 1)

    def looks_ahead(self, tokens: Tensor) -> bool:
        """Say whether what the second attention reads at the first of two tokens (2,) depends on the other one."""
        pair = torch.stack((tokens, tokens[:1].expand(2)))
        one, other = self._read(pair, 1)[:, 0]
        return not torch.allclose(one, other, rtol=1e-4, atol=1e-5)

    def _read(self, tokens: Tensor, which: int) -> Tensor:
        (read,) = read_by(self._model, self._readers[which : which + 1], tokens, nullcontext())
        return read

    @contextmanager
    def _last_only(self) -> Iterator[None]:
        """Leave out the first block's MLP at all tokens but the last, where nobody looks: most of the work."""
        mlp = dict(self._first.named_children()).get("mlp")
        if mlp is None:
            yield
            return
        handle = mlp.register_forward_pre_hook(lambda _module, inputs: (inputs[0][:, -1:], *inputs[1:]))
        try:
            yield
        finally:
            handle.remove()
