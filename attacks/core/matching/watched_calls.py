"""Recording of a model's calls, and the gradients of their parameters as sums of outer products.

The inputs of linear, convolution, normalisation and embedding calls are recorded. With the gradient of the call's
output they determine the gradients of its parameters. Other calls with a parameter are not recorded; the probe of
`fastest` then rejects the fast path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Outer(NamedTuple):
    """The gradient (out, in) of each row as sum_n delta_n z_n^T."""

    inputs: Tensor  # (R, n, in)
    deltas: Tensor  # (R, n, out)

    def whole(self) -> Tensor:
        """Return the explicit gradients, shape (R, out, in)."""
        return self.deltas.mT @ self.inputs

    def squared_norms(self) -> Tensor:
        """Return the squared norms, shape (R,), by the cheaper of two formulas."""
        (count, wide), tall = self.inputs.shape[1:], self.deltas.shape[2]
        if count == 1:
            return self.inputs.square().sum((1, 2)) * self.deltas.square().sum((1, 2))
        if count * (wide + tall) > wide * tall:
            return self.whole().square().sum((1, 2))
        return ((self.inputs @ self.inputs.mT) * (self.deltas @ self.deltas.mT)).sum((1, 2))


Part = Outer | Tensor  # a gradient (R, *shape) that is cheap to compute stays a tensor


class WatchedCall(NamedTuple):
    """A recorded call: its output, and a function from the output's gradient to its parameters' gradients."""

    output: Tensor
    parts: Callable[[Tensor], dict[str, Part]]


class Unsuited(Exception):
    """The model has a call that this path does not support."""


def combine_parts(parts: list[Part]) -> Part:
    """Return the gradient of a parameter that is used several times; raise `Unsuited` without a recorded call."""
    if not parts:
        raise Unsuited
    outers = [part for part in parts if isinstance(part, Outer)]
    if len(outers) == len(parts):
        first, *later_outers = outers
        return Outer(*(torch.cat(p, 1) for p in zip(*outers, strict=True))) if later_outers else first
    return torch.stack([part.whole() if isinstance(part, Outer) else part for part in parts]).sum(0)


class Watch(TorchFunctionMode):
    """Records every linear, convolution, normalisation and embedding call."""

    def __init__(self, names: dict[int, str], second: frozenset[str], rows: int, examples: int) -> None:
        super().__init__()
        self.calls: list[WatchedCall] = []
        self.rows = rows
        self._names = names
        self._second = second
        self._examples = rows * examples

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        rule = _RULES.get(func)
        if rule is None:
            return func(*args, **(kwargs or {}))
        return rule(self, *args, **(kwargs or {}))

    def name(self, parameter: Tensor | None) -> str | None:
        """Return the name of a compared parameter, or None."""
        return self._names.get(id(parameter))

    def group_by_row(self, values: Tensor, features: tuple[int, ...], *names: str | None) -> Tensor:
        """Return values (..., *features) of calls on the named parameters as (rows, n, *features)."""
        flat = values.reshape(-1, *features)
        if self._second.intersection(names):
            flat = flat.unflatten(0, (-1, self._examples)).transpose(0, 1)
        return flat.reshape(self.rows, -1, *features)

    def note(self, output: Tensor, parts: Callable[[Tensor], dict[str, Part]]) -> Tensor:
        """Record a call and return its output.

        An output that depends on no unknown becomes a leaf, so that its gradient can be computed.
        """
        output = output if output.requires_grad else output.detach().requires_grad_()
        self.calls.append(WatchedCall(output, parts))
        return output


def _linear(watch: Watch, inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    matrix, shift = watch.name(weight), watch.name(bias)

    def parts(delta: Tensor) -> dict[str, Part]:
        deltas = watch.group_by_row(delta, delta.shape[-1:], matrix, shift)
        seen = watch.group_by_row(inputs, inputs.shape[-1:], matrix, shift)
        return _drop_unnamed({matrix: Outer(seen, deltas), shift: deltas.sum(1)})

    return watch.note(F.linear(inputs, weight, bias), parts)


def _conv2d(
    watch: Watch,
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    if groups != 1 or isinstance(padding, str):
        raise Unsuited
    matrix, shift = watch.name(weight), watch.name(bias)

    def parts(delta: Tensor) -> dict[str, Part]:
        windows = F.unfold(inputs, weight.shape[2:], dilation, padding, stride).mT
        deltas = watch.group_by_row(delta.flatten(2).mT, delta.shape[1:2])
        return _drop_unnamed(
            {matrix: Outer(watch.group_by_row(windows, windows.shape[-1:]), deltas), shift: deltas.sum(1)}
        )

    return watch.note(F.conv2d(inputs, weight, bias, stride, padding, dilation), parts)


def _layer_norm(
    watch: Watch,
    inputs: Tensor,
    normalized_shape: list[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    normalised = F.layer_norm(inputs, normalized_shape, None, None, eps)
    return _scale(watch, normalised, weight, bias, tuple(normalized_shape))


def _rms_norm(
    watch: Watch,
    inputs: Tensor,
    normalized_shape: list[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    scale = watch.name(weight)
    if weight is None or scale is None:
        return F.rms_norm(inputs, normalized_shape, weight, eps)
    normalised = F.rms_norm(inputs, normalized_shape, None, eps)
    shape = weight.shape

    def parts(delta: Tensor) -> dict[str, Part]:
        return {scale: watch.group_by_row(delta * normalised, shape, scale).sum(1)}

    return watch.note(normalised * weight, parts)


def _group_norm(
    watch: Watch,
    inputs: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    normalised = F.group_norm(inputs, num_groups, None, None, eps)
    channels = (-1, *(1 for _ in inputs.shape[2:]))
    return _scale(watch, normalised, weight, bias, channels)


def _scale(
    watch: Watch, normalised: Tensor, weight: Tensor | None, bias: Tensor | None, shape: tuple[int, ...]
) -> Tensor:
    """Return normalised * weight + bias, both viewed as `shape`, and record the call."""
    if weight is None or bias is None:
        raise Unsuited
    scale, shift = watch.name(weight), watch.name(bias)

    def parts(delta: Tensor) -> dict[str, Part]:
        def per_row(values: Tensor) -> Tensor:
            values = values if shape[0] != -1 else values.flatten(2).sum(2)
            return watch.group_by_row(values, weight.shape, scale, shift).sum(1)

        return _drop_unnamed({scale: per_row(delta * normalised), shift: per_row(delta)})

    return watch.note(normalised * weight.view(shape) + bias.view(shape), parts)


def _embedding(
    watch: Watch,
    indices: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    table = watch.name(weight)
    if table is None:
        return F.embedding(indices, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse)
    if padding_idx is not None or max_norm is not None or scale_grad_by_freq:
        raise Unsuited

    def parts(delta: Tensor) -> dict[str, Part]:
        one_hot = F.one_hot(indices, len(weight)).to(delta)
        seen, deltas = (
            watch.group_by_row(one_hot, one_hot.shape[-1:], table),
            watch.group_by_row(delta, delta.shape[-1:], table),
        )
        return {table: Outer(deltas, seen)}

    return watch.note(F.embedding(indices, weight), parts)


_RULES: dict[Any, Callable[..., Tensor]] = {
    F.linear: _linear,
    F.conv2d: _conv2d,
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.group_norm: _group_norm,
    F.embedding: _embedding,
}


def _drop_unnamed(parts: dict[str | None, Part]) -> dict[str, Part]:
    return {name: part for name, part in parts.items() if name is not None}
