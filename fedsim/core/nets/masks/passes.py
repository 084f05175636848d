"""Forward passes with recorded, injected or disabled dropout masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from fedsim.core.errors import FedsimError
from fedsim.core.nets.masks.calls import Call, DropoutCalls
from fedsim.core.nets.masks.sites import draw_mask, named_calls
from fedsim.core.types import DropoutSite, Masks

_PROBE = 3  # batch size that is unlikely to equal another dimension


@dataclass
class RecordedDropout:
    """Sites and masks of a forward pass under `record_masks`, in call order."""

    sites: list[DropoutSite] = field(default_factory=list)
    masks: list[Tensor] = field(default_factory=list)


@contextmanager
def record_masks(model: nn.Module, generator: torch.Generator) -> Iterator[RecordedDropout]:
    """Sample each active dropout mask of `model` from `generator`, and record it with its site.

    Masks are Bernoulli(1 - p) per entry and example; the drawn mask itself is recorded, so an activation that is zero
    for another reason is not counted as dropped.

    Raises:
        FedsimError: a dropout rate outside [0, 1), or a kind of dropout that is not a mask.
    """
    names: list[str] = []
    _refuse_recurrent_dropout(model)
    with named_calls(model, names), _drawing(generator, names) as recording:
        yield recording


@contextmanager
def keep_masks(generator: torch.Generator) -> Iterator[list[Tensor]]:
    """Sample and record the same masks as `record_masks`, for a model with known sites."""
    with _drawing(generator, []) as recording:
        yield recording.masks


@contextmanager
def _drawing(generator: torch.Generator, names: list[str]) -> Iterator[RecordedDropout]:
    recording = RecordedDropout()

    def rule(call: Call, activation: Tensor) -> Tensor:
        if call.rate == 0.0:
            return activation
        name = names[-1] if names else "model"
        if not 0.0 < call.rate < 1.0:
            raise FedsimError(f"dropout rate {call.rate} in '{name}': expected 0 <= p < 1.")
        site = call.site(name)
        mask = draw_mask(site, generator, activation)
        recording.sites.append(site)
        recording.masks.append(mask)
        return _mask(activation, mask, call.scale)

    with DropoutCalls(rule):
        yield recording


@contextmanager
def inject_masks(sites: Sequence[DropoutSite], masks: Masks) -> Iterator[None]:
    """Apply the given real-valued masks at `sites`, in training and in evaluation mode; other calls are the identity.

    Raises:
        FedsimError: a mask's shape differs from its activation, or the forward pass never reached a site.
    """
    if len(sites) != len(masks):
        raise FedsimError(f"{len(masks)} masks were given for {len(sites)} dropout sites.")
    given = {site.call: (site, mask) for site, mask in zip(sites, masks, strict=True)}
    reached: set[int] = set()

    def rule(call: Call, activation: Tensor) -> Tensor:
        if call.number not in given:
            return activation
        site, mask = given[call.number]
        if tuple(mask.shape) != call.shape:
            raise FedsimError(f"the mask of '{site.name}' has shape {tuple(mask.shape)}, expected {call.shape}.")
        reached.add(call.number)
        return _mask(activation, mask, replace(call, rate=site.rate).scale)

    with DropoutCalls(rule):
        yield
    missing = [site.name for site in sites if site.call not in reached]
    if missing:
        raise FedsimError(
            f"the forward pass never reached the dropout in {', '.join(missing)}. Some models call dropout only in "
            "training mode: inject there."
        )


@contextmanager
def disable_dropout() -> Iterator[None]:
    """Make every dropout call the identity."""
    with DropoutCalls(lambda _call, activation: activation):
        yield


def dropout_sites(
    model: nn.Module,
    shape: Sequence[int],
    batch_size: int,
    dtype: torch.dtype | None = None,
    run: Callable[[Tensor], Tensor] | None = None,
) -> tuple[DropoutSite, ...]:
    """Return the dropout sites of a model in training mode, for inputs (batch_size, *shape).

    Args:
        model: the model, restored afterwards.
        shape: shape of an example.
        batch_size: number of examples.
        dtype: type of the inputs; default that of the parameters.
        run: runs the model on inputs, if it has further inputs.
    """
    parameter = next(model.parameters())
    blank = torch.zeros((batch_size, *shape), dtype=dtype or parameter.dtype, device=parameter.device)
    was_training, buffers = model.training, {k: v.clone() for k, v in model.named_buffers()}
    model.train()
    with torch.no_grad(), record_masks(model, torch.Generator().manual_seed(0)) as recording:
        (run or model)(blank)
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    model.train(was_training)
    return tuple(recording.sites)


def mask_not_batch_first(
    model: nn.Module,
    shape: Sequence[int],
    dtype: torch.dtype | None = None,
    run: Callable[[Tensor], Tensor] | None = None,
) -> DropoutSite | None:
    """Return a site whose mask does not have examples in the first dimension, or None. Such masks cannot be batched."""
    return next((site for site in dropout_sites(model, shape, _PROBE, dtype, run) if site.shape[0] != _PROBE), None)


def _mask(activation: Tensor, mask: Tensor, scale: float) -> Tensor:
    kept = activation * mask
    return kept if scale == 1.0 else kept * scale


def _refuse_recurrent_dropout(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.RNNBase) and module.dropout > 0:
            raise FedsimError(
                f"'{name}' applies dropout between recurrent layers inside a single kernel, so "
                "its masks are not accessible. Stack single layers with nn.Dropout between "
                "them."
            )
