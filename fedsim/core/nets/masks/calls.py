"""Interception of a forward pass's dropout functions by a torch function mode."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import FunctionType
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fedsim.core.errors import FedsimError
from fedsim.core.nets.masks.prefixes import prefix_dropout
from fedsim.core.nets.masks.sites import rescaling_factor
from fedsim.core.types import DropoutSite


@dataclass(frozen=True)
class Call:
    """A call of a dropout function: index, rate, shape of the mask, and for a prefix mask its probabilities."""

    number: int
    rate: float
    shape: tuple[int, ...]
    odds: tuple[float, ...] = ()
    per_example: bool = False

    def site(self, name: str) -> DropoutSite:
        """Return the dropout site of this call, with a name."""
        return DropoutSite(self.number, name, self.rate, self.shape, self.odds, self.per_example)

    @property
    def scale(self) -> float:
        """Factor of kept entries: 1 / (1 - rate), or 1 for a prefix mask."""
        return rescaling_factor(self.site(""))


Rule = Callable[[Call, Tensor], Tensor]


@lru_cache(maxsize=64)
def _mean(odds: tuple[float, ...]) -> float:
    return sum(length * chance for length, chance in enumerate(odds, 1))


class DropoutCalls(TorchFunctionMode):
    """Passes each dropout call of a forward pass to `rule`, numbered in call order."""

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self._rule = rule
        self._calls = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _ELEMENTWISE:
            return self._drop(*_ELEMENTWISE[func](*args, **kwargs))
        if func in _CHANNELWISE:
            activation, rate = _CHANNELWISE[func](*args, **kwargs)
            return self._drop(activation, rate, (*activation.shape[:2], *(1 for _ in activation.shape[2:])))
        replacements = {prefix_dropout: self._drop_suffix, F.scaled_dot_product_attention: self._attend}
        if func in replacements:
            return replacements[func](*args, **kwargs)
        if func is F.multi_head_attention_forward:
            with self:
                return _multi_head_attention_body(*args, **kwargs)
        if func in (F.alpha_dropout, F.feature_alpha_dropout, torch.alpha_dropout, torch.feature_alpha_dropout):
            return _refuse_alpha_dropout()
        return func(*args, **kwargs)

    def _drop(self, activation: Tensor, rate: float, shape: tuple[int, ...] | None = None) -> Tensor:
        call = Call(self._calls, rate, tuple(activation.shape) if shape is None else shape)
        self._calls += 1
        return self._rule(call, activation)

    def _drop_suffix(
        self, activation: Tensor, odds: tuple[float, ...], training: bool = True, per_example: bool = False
    ) -> Tensor:
        rate = max(0.0, 1.0 - _mean(odds) / activation.shape[-1]) if training else 0.0
        call = Call(self._calls, rate, tuple(activation.shape), odds, per_example)
        self._calls += 1
        return self._rule(call, activation)

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if enable_gqa:
            repeats = query.shape[-3] // key.shape[-3]
            key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
        scores = query @ key.transpose(-2, -1) * (1.0 / math.sqrt(query.shape[-1]) if scale is None else scale)
        if is_causal:
            causal = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
            scores = scores.masked_fill(~causal, -torch.inf)
        if attn_mask is not None:
            is_boolean = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -torch.inf) if is_boolean else scores + attn_mask
        return self._drop(scores.softmax(-1), dropout_p) @ value


def _call_of_functional(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> tuple[Tensor, float]:
    return input, p if training else 0.0


def _call_of_torch(input: Tensor, p: float, train: bool) -> tuple[Tensor, float]:
    return input, p if train else 0.0


_ELEMENTWISE: dict[Any, Callable[..., tuple[Tensor, float]]] = {
    F.dropout: _call_of_functional,
    torch.dropout: _call_of_torch,
    torch.dropout_: _call_of_torch,
}


_CHANNELWISE: dict[Any, Callable[..., tuple[Tensor, float]]] = {
    F.dropout1d: _call_of_functional,
    F.dropout2d: _call_of_functional,
    F.dropout3d: _call_of_functional,
    torch.feature_dropout: _call_of_torch,
    torch.feature_dropout_: _call_of_torch,
}


# PyTorch runs the body of a Python function with the mode off, which would hide the dropout inside. This copy of the
# function does not dispatch to overrides, so it runs with the mode on.
_multi_head_attention_body = FunctionType(
    F.multi_head_attention_forward.__code__,
    {**F.multi_head_attention_forward.__globals__, "has_torch_function": lambda _tensors: False},
    "multi_head_attention_body",
    F.multi_head_attention_forward.__defaults__,
)
_multi_head_attention_body.__kwdefaults__ = F.multi_head_attention_forward.__kwdefaults__


def _refuse_alpha_dropout() -> NoReturn:
    raise FedsimError("alpha dropout shifts activations and is not a mask. Use nn.Dropout instead.")
