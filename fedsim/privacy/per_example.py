"""Sums of clipped per-example gradients, sum over i of g_i min(1, C / ||g_i||), by Opacus' rules, on any model.

Source: Abadi et al. 2016, arXiv 1607.00133, algorithm 1; ghost norms: Li et al. 2022, arXiv 2110.05679; sums of
the same inputs and gradients of outputs: Bu et al. 2022, arXiv 2210.00038. The norm covers all parameters jointly,
including scalars. A gradient that is not finite counts as zero, since no bound holds for it. The sum contains only
gradients with a measured norm: a weight used without a call of its layer gets no gradient, so none escapes clipping.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from fedsim.core import seeding
from fedsim.core.errors import FedsimError, describe_exception
from fedsim.core.nets.losses import compute_example_losses, cross_entropy
from fedsim.core.nets.masks import disable_dropout, dropout_sites, keep_masks
from fedsim.core.types import Batch

Mode = Literal["hooks", "functorch", "ghost"]
_GHOSTS = (nn.Linear, nn.Embedding)  # layers with gradient norms that Opacus computes without the gradients
_SMALLEST_NORM = 1e-30
_FAR = 1e3  # factor of an example that a probe moves away from the others
_NOTHING = 1e-6
_ROUNDING = 1e-6  # tolerance of the probe in double precision, relative to the clipping norm


def cheapest(model: nn.Module) -> Mode:
    """Return how to clip: ghost norms where only dense layers and embeddings have matrices, else stored gradients.

    Ghost norms need no gradient per example; that pays for dense layers and embeddings, not for small convolutions.
    Vectors, such as norm weights, are stored per example in both ways.
    """
    owners = [module for module in model.modules() if _train(module)]
    ties = len(list(model.named_parameters(remove_duplicate=False))) - len(list(model.parameters()))
    is_cheap = all(type(m) in _GHOSTS or all(p.dim() <= 1 for p in _train(m)) for m in owners)
    return "ghost" if is_cheap and not ties else "hooks"


def sum_clipped(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], losses: Callable[[], Tensor], clip: float, mode: Mode
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return each example's loss, shape (B,), and the sum of the examples' clipped gradients, by parameter.

    Args:
        model: in training mode; hooks are attached for this call and removed, and the model does not change.
        parameters: all trained parameters, by name.
        losses: runs the model on a non-empty batch and returns each example's loss, shape (B,).
        clip: largest Euclidean norm of an example's gradient.
        mode: hooks and functorch store every example's gradient, ghost only its norm.

    Raises:
        FedsimError: a layer was called for other rows than the examples, or twice in mode ghost.
    """
    with _record_calls(model) as uses:
        example_losses = losses()
    total = (
        _ghost_sum(uses, parameters, example_losses, clip)
        if mode == "ghost"
        else _stored_sum(uses, parameters, example_losses, clip, mode)
    )
    return example_losses.detach(), total


def example_gradients(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], losses: Callable[[], Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return each example's loss, shape (B,), and its gradient by parameter, shape (B, *parameter.shape).

    Args:
        model: in training mode; it does not change.
        parameters: all trained parameters, by name.
        losses: runs the model on a non-empty batch and returns each example's loss, shape (B,).
    """
    with _record_calls(model) as uses:
        example_losses = losses()
    stored = _each_stored(uses, example_losses, "hooks")
    return example_losses.detach(), {
        n: stored[p] if p in stored else p.new_zeros(len(example_losses), *p.shape) for n, p in parameters.items()
    }


def why_inseparable(model: nn.Module, batch: Batch, mode: Mode) -> str | None:
    """Return why per-example gradients cannot be separated, or None if they can.

    It compares the clipped sum of a batch with the sum over single examples, before and after a small and a large
    change of an example. This detects any layer that mixes examples, any gradient that the hooks miss,
    and models that compute otherwise for large inputs. It also compares parameters and buffers before and after a
    forward pass, with the given weights and with weights 1,000 times as large. It probes a copy of the model.

    Args:
        model: in training mode.
        batch: at least three examples; the last replaces the first.
        mode: as for `sum_clipped`.
    """
    probed = copy.deepcopy(model).double()
    numbers = batch.inputs.double() if batch.inputs.is_floating_point() else batch.inputs
    inputs, labels, last = numbers[:-1], batch.labels[:-1], numbers[-1:]
    moves = (lambda x: x + 5.0, lambda x: x * _FAR, lambda x: x * -_FAR) if last.is_floating_point() else (lambda x: x,)
    batches = (inputs, *(torch.cat((move(last), inputs[1:])) for move in moves))
    try:
        with seeding.isolate_randomness(0):
            if (changed := _changed_by_forward(probed, numbers)) is not None:
                return (
                    f"a forward pass changes {changed} by the examples of the batch, and no noise protects that. Use "
                    "embeddings without max_norm, and layers without running statistics"
                )
            reason = next((why for x in batches if (why := _why_not_a_sum(probed, x, labels, mode))), None)
            if reason is None and dropout_sites(probed, inputs.shape[1:], len(inputs), inputs.dtype):
                reason = _why_masks_differ(probed, inputs, labels, mode)
    except Exception as error:
        reason = f"the model cannot be differentiated for each example (mode '{mode}'): {describe_exception(error)}"
    return reason


@torch.no_grad()
def _changed_by_forward(model: nn.Module, inputs: Tensor) -> str | None:
    """Return the first parameter or floating-point buffer that a forward pass changes, or None; also for large weights.

    Large weights matter since `max_norm` of an embedding changes nothing until training has lengthened a row.
    """
    for factor in (1.0, _FAR):
        probed = copy.deepcopy(model)
        for parameter in probed.parameters():
            parameter.mul_(factor)
        before = {name: tensor.clone() for name, tensor in _floating_state(probed)}
        probed(inputs)
        for name, tensor in _floating_state(probed):
            if not torch.equal(tensor, before[name]):
                return name
    return None


def _floating_state(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters and floating-point buffers, each with its kind and name."""
    yield from ((f"the parameter '{name}'", parameter) for name, parameter in model.named_parameters())
    yield from ((f"the buffer '{name}'", b) for name, b in model.named_buffers() if b.is_floating_point())


def _train(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters(recurse=False) if p.requires_grad]


def _why_not_a_sum(model: nn.Module, inputs: Tensor, labels: Tensor, mode: Mode) -> str | None:
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}

    def alone(example: int) -> Tensor:
        example_slice = slice(example, example + 1)
        loss = cross_entropy(model(inputs[example_slice]), labels[example_slice])
        tensors = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
        return torch.cat([t.flatten() for t in tensors])

    def losses() -> Tensor:
        return compute_example_losses(model(inputs), labels)

    with disable_dropout():
        single = torch.stack([alone(example) for example in range(len(inputs))])
        norms = single.norm(dim=1)
        # Every gradient is clipped, except gradients with a negligible norm.
        clip = float(norms[norms >= _NOTHING * norms.max()].min()) / 2 or 1.0
        _, total = sum_clipped(model, parameters, losses, clip, mode)
    flat_total = torch.cat([t.flatten() for t in total.values()])
    expected = (clip / norms.clamp_min(clip)) @ single
    difference = float(torch.dist(flat_total, expected)) / clip
    if difference <= _ROUNDING:
        return None
    return (
        "a layer mixes the examples of a batch, or uses another layer's parameters: clipped gradients are off by "
        f"{difference:.1g} of the clipping norm (mode '{mode}'). Use group or layer normalisation, and layers that "
        "Opacus knows"
    )


def _why_masks_differ(model: nn.Module, inputs: Tensor, labels: Tensor, mode: Mode) -> str | None:
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    drawn_forward = 0

    def losses() -> Tensor:
        nonlocal drawn_forward
        example_losses = compute_example_losses(model(inputs), labels)
        drawn_forward = len(masks)
        return example_losses

    with keep_masks(torch.Generator().manual_seed(0)) as masks:
        sum_clipped(model, parameters, losses, 1.0, mode)
    if len(masks) == drawn_forward:
        return None
    return (
        "the model applies dropout inside a module with its own parameters, so per-example "
        f"gradients would use other masks (mode '{mode}'). Move the dropout into a module "
        "without parameters"
    )


@runtime_checkable
class Composite(Protocol):
    """A module that computes with the weights of its children instead of calling them."""

    def calls(self, inputs: Tensor, gradient: Tensor) -> Iterator[tuple[nn.Module, Tensor, Tensor]]:
        """Yield each such child with the input that a call would read and the gradient of the output.

        Args:
            inputs: input of the module.
            gradient: gradient of its output.
        """
        ...


class _Use(NamedTuple):
    """A call of a module with trained parameters: its input, and the graph node of its output."""

    module: nn.Module
    inputs: Tensor
    output: GradientEdge


class _Part(NamedTuple):
    """Per-example gradients of a parameter.

    Attributes:
        norms: norm of each example's gradient, shape (B,).
        weighted_sum: returns the weighted sum of selected examples' gradients, given their factors and indices.
    """

    norms: Tensor
    weighted_sum: Callable[[Tensor, Tensor | slice], Tensor]


def _stored_sum(
    uses: Sequence[_Use], parameters: Mapping[str, nn.Parameter], example_losses: Tensor, clip: float, mode: Mode
) -> dict[str, Tensor]:
    stored = _each_stored(uses, example_losses, mode)
    norms = torch.stack([gradient.reshape(len(example_losses), -1).norm(dim=1) for gradient in stored.values()]).norm(
        dim=0
    )
    usable = torch.isfinite(norms)
    if not bool(usable.all()):  # else unchanged: a selection would copy every gradient
        norms, stored = norms[usable], {parameter: gradient[usable] for parameter, gradient in stored.items()}
    factors = (clip / norms.clamp_min(_SMALLEST_NORM)).clamp_max(1.0)
    return {
        name: torch.tensordot(factors, stored[p], dims=1) if p in stored else torch.zeros_like(p)
        for name, p in parameters.items()
    }


def _each_stored(uses: Sequence[_Use], example_losses: Tensor, mode: Mode) -> dict[nn.Parameter, Tensor]:
    stored: dict[nn.Parameter, Tensor] = {}
    for use, gradient in _output_gradients(uses, example_losses):
        for parameter, part_gradients in _yield_example_gradients(use, gradient, mode):
            stored[parameter] = stored[parameter] + part_gradients if parameter in stored else part_gradients
    return stored


def _ghost_sum(
    uses: Sequence[_Use], parameters: Mapping[str, nn.Parameter], example_losses: Tensor, clip: float
) -> dict[str, Tensor]:
    parts: dict[nn.Parameter, _Part] = {}
    for use, gradient in _output_gradients(uses, example_losses):
        for parameter, part in _measure_parameters(use, gradient):
            if parameter in parts:
                raise FedsimError("ghost norms of a parameter that is used twice do not add up. Set mode = 'hooks'.")
            parts[parameter] = part
    norms = torch.stack([part.norms for part in parts.values()]).norm(dim=0)
    usable = torch.isfinite(norms)
    rows = slice(None) if bool(usable.all()) else usable  # a selection would copy every input
    factors = (clip / norms[rows].clamp_min(_SMALLEST_NORM)).clamp_max(1.0)
    return {
        name: parts[p].weighted_sum(factors, rows) if p in parts else torch.zeros_like(p)
        for name, p in parameters.items()
    }


def _output_gradients(uses: Sequence[_Use], example_losses: Tensor) -> Iterator[tuple[_Use, Tensor]]:
    """Yield each use that the losses depend on with the gradient of its output; parameters get no gradient."""
    edges = [use.output for use in uses]
    gradients = torch.autograd.grad(example_losses.sum(), edges, allow_unused=True) if edges else ()
    for use, gradient in zip(uses, gradients, strict=True):
        if gradient is None:
            continue
        if len(gradient) != len(example_losses) or len(use.inputs) != len(example_losses):
            raise FedsimError(
                f"a layer '{type(use.module).__name__}' was called with {len(use.inputs)} rows "
                f"for {len(example_losses)} examples, so their gradients cannot be separated. Call it for "
                "all examples, with a row each."
            )
        yield from _split_by_child(use, gradient)


@torch.no_grad()
def _split_by_child(use: _Use, gradient: Tensor) -> list[tuple[_Use, Tensor]]:
    """Return the use and its gradient; for a composite module, the uses and gradients of its children."""
    calls = [(use.module, use.inputs, gradient)]
    if isinstance(use.module, Composite):
        calls = list(use.module.calls(use.inputs, gradient))
    # Contiguous, since some rules of Opacus take views.
    return [(_Use(module, inputs.contiguous(), use.output), slope.contiguous()) for module, inputs, slope in calls]


def _yield_example_gradients(use: _Use, gradient: Tensor, mode: Mode) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """Yield the module's trained parameters with per-example gradients (B, ...), by Opacus' rule for its class."""
    from fedsim.core.foreign.opacus import gradient_rule  # noqa: PLC0415 - slow import (seconds)

    rule = None if mode == "functorch" else gradient_rule(use.module)
    with torch.no_grad():
        gradients = (rule or _compute_by_functorch)(use.module, [use.inputs], gradient)
    return ((parameter, part_gradients) for parameter, part_gradients in gradients.items() if parameter.requires_grad)


def _compute_by_functorch(module: nn.Module, inputs: list[Tensor], gradient: Tensor) -> Mapping[nn.Parameter, Tensor]:
    """Return the per-example gradients of a module of any class, without changing it."""
    from fedsim.core.foreign.opacus import ft_compute_per_sample_gradient  # noqa: PLC0415

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "In .* autocast")  # Opacus mistakes token numbers for another precision
            return ft_compute_per_sample_gradient(module, inputs, gradient)
    finally:
        vars(module).pop("ft_compute_sample_grad", None)


def _measure_parameters(use: _Use, gradient: Tensor) -> Iterator[tuple[nn.Parameter, _Part]]:
    """Yield the module's trained parameters with per-example gradient norms and a weighted sum function."""
    from fedsim.core.foreign.opacus import norm_rule  # noqa: PLC0415

    rule = norm_rule(use.module)
    if rule is None:
        for parameter, of_examples in _yield_example_gradients(use, gradient, "hooks"):
            yield (
                parameter,
                _Part(of_examples.reshape(len(of_examples), -1).norm(dim=1), partial(_sum_stored, of_examples)),
            )
        return
    summed = _sum_embedded if isinstance(use.module, nn.Embedding) else _sum_dense
    with torch.no_grad():
        norms = rule(use.module, [use.inputs], gradient)
    for parameter, of_examples in norms.items():
        if parameter.requires_grad:
            yield parameter, _Part(of_examples, partial(summed, parameter, use.inputs, gradient))


def _sum_stored(stored: Tensor, factors: Tensor, rows: Tensor | slice) -> Tensor:
    return torch.tensordot(factors, stored[rows], dims=1)


@torch.no_grad()
def _sum_dense(
    parameter: nn.Parameter, inputs: Tensor, gradient: Tensor, factors: Tensor, rows: Tensor | slice
) -> Tensor:
    outer = _scale_rows(gradient[rows], factors)
    if parameter.dim() == 1:
        return outer.sum(dim=0)
    return outer.T @ inputs[rows].flatten(0, -2).to(outer.dtype)


@torch.no_grad()
def _sum_embedded(
    parameter: nn.Parameter, inputs: Tensor, gradient: Tensor, factors: Tensor, rows: Tensor | slice
) -> Tensor:
    return torch.zeros_like(parameter).index_add_(0, inputs[rows].flatten(), _scale_rows(gradient[rows], factors))


def _scale_rows(gradient: Tensor, factors: Tensor) -> Tensor:
    """Return each example's output gradient (B, ..., F) times its factor (B,), as rows (N, F)."""
    return (gradient * factors.view(-1, *[1] * (gradient.dim() - 1))).flatten(0, -2)


@contextmanager
def _record_calls(model: nn.Module) -> Generator[list[_Use]]:
    """Record every call of a module with its own trained parameters; the model does not change."""
    uses: list[_Use] = []

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        if first.requires_grad:
            uses.append(_Use(module, inputs[0].detach().contiguous(), get_gradient_edge(first)))

    handles = [module.register_forward_hook(note) for module in _owners(model)]
    try:
        yield uses
    finally:
        for handle in handles:
            handle.remove()


def _owners(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules with their own trained parameters; a module without a rule includes its children."""
    from fedsim.core.foreign.opacus import gradient_rule  # noqa: PLC0415

    if isinstance(module, Composite):
        yield module
    if _train(module):
        yield module
        if gradient_rule(module) is None:
            return
    for child in module.children():
        yield from _owners(child)
