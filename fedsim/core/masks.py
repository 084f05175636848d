"""Dropout masks of ordinary models: found, recorded and injected without special layers.

A forward pass calls dropout functions in a fixed order, whether they come from `nn.Dropout`, from
`torch.nn.functional` or from inside an attention. Each of the context managers below takes over these
calls: ``h <- h * mask / (1 - p)``. Attention is computed with an explicit softmax, since the fused
kernels neither expose their mask nor have a second derivative.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import FunctionType
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, handle_torch_function, has_torch_function_unary

from fedsim.core.errors import FedsimError
from fedsim.core.types import DropoutSite, Masks

_PROBE = 3  # examples of a batch that no other dimension is likely to equal


@dataclass(frozen=True)
class _Call:
    """One call of a dropout function: its number, its rate, its mask's shape, and of a prefix mask whose odds."""

    number: int
    rate: float
    shape: tuple[int, ...]
    odds: tuple[float, ...] = ()
    per_example: bool = False

    def site(self, name: str) -> DropoutSite:
        return DropoutSite(self.number, name, self.rate, self.shape, self.odds, self.per_example)

    @property
    def scale(self) -> float:
        return rescaling(self.site(""))


_Rule = Callable[[_Call, Tensor], Tensor]


@dataclass
class Recording:
    """What a forward pass under `recorded_masks` drew, in call order."""

    sites: list[DropoutSite] = field(default_factory=list)
    masks: list[Tensor] = field(default_factory=list)


@contextmanager
def recorded_masks(model: nn.Module, generator: torch.Generator) -> Iterator[Recording]:
    """Draw every active dropout mask of `model` from `generator` and keep it, with the place it belongs to.

    Masks are Bernoulli(1 - p) per entry and example; the drawn mask itself is kept, so an activation
    that is zero for another reason is not mistaken for a dropped one.

    Raises:
        FedsimError: a dropout rate outside [0, 1), or a kind of dropout that is not a mask.
    """
    where: list[str] = []
    _refuse_recurrent_dropout(model)
    with named_calls(model, where), _drawing(generator, where) as recording:
        yield recording


@contextmanager
def kept_masks(generator: torch.Generator) -> Iterator[list[Tensor]]:
    """Draw and keep the same masks as `recorded_masks`, for a model whose sites are known already."""
    with _drawing(generator, []) as recording:
        yield recording.masks


class KeptPrefixes:
    """Draw and keep the same masks as `kept_masks`, for a model that drops out nothing but prefixes, one a batch.

    Nothing is taken over but these, so the forward pass costs what it costs without dropout, and lengths are drawn
    before it: the same work between two gradients, with cold caches, takes several times as long. A further forward
    pass draws further ones.
    """

    def __init__(self, sites: Sequence[DropoutSite], generator: torch.Generator) -> None:
        lengths = (_drawn_length(site.odds, generator) for site in itertools.cycle(sites))
        first = list(itertools.islice(lengths, len(sites)))
        self._kept: tuple[Iterator[int], list[Tensor]] = (itertools.chain(first, lengths), [])

    def __enter__(self) -> list[Tensor]:
        self._token = _PREFIXES.set(self._kept)
        return self._kept[1]

    def __exit__(self, *_failure: object) -> None:
        _PREFIXES.reset(self._token)


_PREFIXES: ContextVar[tuple[Iterator[int], list[Tensor]] | None] = ContextVar("prefixes", default=None)


@contextmanager
def _drawing(generator: torch.Generator, where: list[str]) -> Iterator[Recording]:
    recording = Recording()

    def rule(call: _Call, activation: Tensor) -> Tensor:
        if call.rate == 0.0:
            return activation
        name = where[-1] if where else "model"
        if not 0.0 < call.rate < 1.0:
            raise FedsimError(f"dropout rate {call.rate} in '{name}': expected 0 <= p < 1.")
        site = call.site(name)
        mask = _drawn(site, generator, activation)
        recording.sites.append(site)
        recording.masks.append(mask)
        return _masked(activation, mask, call.scale)

    with _DropoutCalls(rule):
        yield recording


@contextmanager
def injected_masks(sites: Sequence[DropoutSite], masks: Masks) -> Iterator[None]:
    """Use the given real-valued masks at `sites`, in training and in evaluation mode; other calls do nothing.

    Raises:
        FedsimError: a mask of another shape than its activation, or a site that the forward pass never reached.
    """
    if len(sites) != len(masks):
        raise FedsimError(f"{len(masks)} masks were given for {len(sites)} dropout sites.")
    given = {site.call: (site, mask) for site, mask in zip(sites, masks, strict=True)}
    reached: set[int] = set()

    def rule(call: _Call, activation: Tensor) -> Tensor:
        if call.number not in given:
            return activation
        site, mask = given[call.number]
        if tuple(mask.shape) != call.shape:
            raise FedsimError(f"the mask of '{site.name}' has shape {tuple(mask.shape)}, expected {call.shape}.")
        reached.add(call.number)
        return _masked(activation, mask, replace(call, rate=site.rate).scale)

    with _DropoutCalls(rule):
        yield
    missing = [site.name for site in sites if site.call not in reached]
    if missing:
        raise FedsimError(
            f"the forward pass never reached the dropout in {', '.join(missing)}. Some models call dropout only in "
            "training mode: inject there."
        )


@contextmanager
def without_dropout() -> Iterator[None]:
    """Make every dropout call the identity."""
    with _DropoutCalls(lambda _call, activation: activation):
        yield


def dropout_sites(
    model: nn.Module, shape: Sequence[int], batch_size: int, dtype: torch.dtype | None = None
) -> tuple[DropoutSite, ...]:
    """Return where a model in training mode drops out, for inputs (batch_size, *shape).

    Args:
        model: left as it was.
        shape: of one example.
        batch_size: number of examples.
        dtype: type of the inputs, that of the parameters when absent.
    """
    parameter = next(model.parameters())
    blank = torch.zeros((batch_size, *shape), dtype=dtype or parameter.dtype, device=parameter.device)
    was_training, buffers = model.training, {k: v.clone() for k, v in model.named_buffers()}
    model.train()
    with torch.no_grad(), recorded_masks(model, torch.Generator().manual_seed(0)) as recording:
        model(blank)
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    model.train(was_training)
    return tuple(recording.sites)


def mask_not_batch_first(
    model: nn.Module, shape: Sequence[int], dtype: torch.dtype | None = None
) -> DropoutSite | None:
    """Return a site whose mask does not begin with the examples, or None: such masks cannot be put side by side."""
    return next((site for site in dropout_sites(model, shape, _PROBE, dtype) if site.shape[0] != _PROBE), None)


def drawn_masks(sites: Sequence[DropoutSite], generator: torch.Generator, like: Tensor) -> Masks:
    """Return masks for `sites` as a client draws them, with the type and device of `like`."""
    return tuple(_drawn(site, generator, like) for site in sites)


def rescaling(site: DropoutSite) -> float:
    """Return what entries that are kept are multiplied by: 1 / (1 - p), or 1 where a prefix is kept."""
    return 1.0 if site.odds else 1.0 / (1.0 - site.rate)


def expected_mask(site: DropoutSite) -> Tensor:
    """Return the probability of each entry to be kept: 1 - p, or P(length >= j) at entry j where a prefix is kept."""
    if not site.odds:
        return torch.full(site.shape, 1.0 - site.rate)
    at_least = _weights(site.odds).flip(0).cumsum(0).flip(0)
    return at_least.float().clamp(0.0, 1.0).expand(site.shape).clone()


def prefix_dropout(
    activation: Tensor, odds: tuple[float, ...], training: bool = True, per_example: bool = False
) -> Tensor:
    """Keep a random prefix of the last dimension and zero the rest; no rescaling.

    Args:
        activation: shape (B, ..., D).
        odds: probabilities of the lengths 1 to D.
        training: nothing is dropped when false.
        per_example: every example has a length of its own; else one serves all.
    """
    if has_torch_function_unary(activation):
        return handle_torch_function(prefix_dropout, (activation,), activation, odds, training, per_example)
    if not training:
        return activation
    shape, kept = tuple(activation.shape), _PREFIXES.get()
    if kept is None:
        return activation * _drawn_prefix(odds, shape, None, activation, per_example=per_example)
    lengths, masks = kept
    masks.append(prefix_mask(next(lengths), shape, activation))
    return activation * masks[-1]


def prefix_mask(length: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return the mask that keeps the first `length` entries of the last dimension."""
    strides = (*(0 for _ in shape[1:]), 1)
    return _ones_then_zeros(shape[-1], like.dtype, like.device).as_strided(shape, strides, shape[-1] - length)


def _drawn_prefix(
    odds: tuple[float, ...],
    shape: tuple[int, ...],
    generator: torch.Generator | None,
    like: Tensor,
    *,
    per_example: bool,
) -> Tensor:
    if not per_example:
        return prefix_mask(_drawn_length(odds, generator), shape, like)
    drawn = _weights(odds).multinomial(shape[0], replacement=True, generator=generator)
    kept = torch.arange(shape[-1]) <= drawn.view(-1, *(1 for _ in shape[1:]))
    return kept.to(like).expand(shape)


def _drawn_length(odds: tuple[float, ...], generator: torch.Generator | None) -> int:
    """Draw a length as `multinomial` does, without its checks of the weights, which take as long again."""
    weights = _weights(odds)
    return 1 + int((weights / torch.empty_like(weights).exponential_(generator=generator)).argmax())


@lru_cache(maxsize=64)
def _ones_then_zeros(channels: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return as many ones as zeros, of which every prefix mask is a window."""
    return torch.cat((torch.ones(channels), torch.zeros(channels))).to(device, dtype)


@lru_cache(maxsize=64)
def _weights(odds: tuple[float, ...]) -> Tensor:
    return torch.tensor(odds, dtype=torch.float64)


@lru_cache(maxsize=64)
def _mean(odds: tuple[float, ...]) -> float:
    return sum(length * chance for length, chance in enumerate(odds, 1))


def _drawn(site: DropoutSite, generator: torch.Generator, like: Tensor) -> Tensor:
    if not site.odds:
        drawn = torch.empty(site.shape, dtype=like.dtype).bernoulli_(1.0 - site.rate, generator=generator)
        return drawn.to(like.device)
    return _drawn_prefix(site.odds, site.shape, generator, like, per_example=site.per_example)


def _masked(activation: Tensor, mask: Tensor, scale: float) -> Tensor:
    kept = activation * mask
    return kept if scale == 1.0 else kept * scale


class _DropoutCalls(TorchFunctionMode):
    """Hands every dropout call of a forward pass to `rule`, numbered in call order."""

    def __init__(self, rule: _Rule) -> None:
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
        own = {prefix_dropout: self._drop_suffix, F.scaled_dot_product_attention: self._attend}
        if func in own:
            return own[func](*args, **kwargs)
        if func is F.multi_head_attention_forward:
            with self:
                return _multi_head_attention_body(*args, **kwargs)
        if func in (F.alpha_dropout, F.feature_alpha_dropout, torch.alpha_dropout, torch.feature_alpha_dropout):
            return _refuse_alpha_dropout()
        return func(*args, **kwargs)

    def _drop(self, activation: Tensor, rate: float, shape: tuple[int, ...] | None = None) -> Tensor:
        call = _Call(self._calls, rate, tuple(activation.shape) if shape is None else shape)
        self._calls += 1
        return self._rule(call, activation)

    def _drop_suffix(
        self, activation: Tensor, odds: tuple[float, ...], training: bool = True, per_example: bool = False
    ) -> Tensor:
        rate = max(0.0, 1.0 - _mean(odds) / activation.shape[-1]) if training else 0.0
        call = _Call(self._calls, rate, tuple(activation.shape), odds, per_example)
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

# PyTorch runs the body of a Python function with the mode switched off, which would hide the dropout inside.
# A copy of the function that does not ask for an override runs with the mode switched on.
_multi_head_attention_body = FunctionType(
    F.multi_head_attention_forward.__code__,
    {**F.multi_head_attention_forward.__globals__, "has_torch_function": lambda _tensors: False},
    "multi_head_attention_body",
    F.multi_head_attention_forward.__defaults__,
)
_multi_head_attention_body.__kwdefaults__ = F.multi_head_attention_forward.__kwdefaults__


def _refuse_alpha_dropout() -> NoReturn:
    raise FedsimError("alpha dropout shifts activations and is not a mask. Use nn.Dropout instead.")


def _refuse_recurrent_dropout(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.RNNBase) and module.dropout > 0:
            raise FedsimError(
                f"'{name}' drops out between recurrent layers inside one kernel, where no mask can be seen. "
                "Stack single layers with nn.Dropout between them."
            )


@contextmanager
def named_calls(model: nn.Module, where: list[str]) -> Iterator[None]:
    """Keep the names of the modules that are being called in `where`, innermost last; also those that failed."""

    def leave(name: str) -> None:
        while where.pop() != name:  # a module inside that failed, where this one went on
            pass

    handles = []
    for path, module in model.named_modules():
        name = path or "model"
        handles.append(module.register_forward_pre_hook(lambda _m, _i, name=name: where.append(name)))
        handles.append(module.register_forward_hook(lambda _m, _i, _o, name=name: leave(name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
