"""Targets from a gradient whose inputs are known, whatever the loss: least squares, and then the loss itself.

An output layer z = W h + b has the gradients dW = sum_i r_i h_i^T and db = sum_i r_i, with r_i = dL/dz_i. Of one
example, h = dW^T db / |db|^2. Of several whose inputs are known, a forward pass gives every h_i, and least squares
every r_i, while the rows [h_i, 1] are independent. Where no such layer gives the outputs, the gradient of any weight w
is sum_k r_k dz_k/dw, which is linear in r too. The target of an example is the one whose residual is r_i: the client's
loss says so when it is asked, so no loss is known by name, nor whether it is a mean or a sum.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.core.defense_facts import bound_of, inexact
from attacks.core.mean_gradient import gradient_weight
from attacks.core.preconditions import one_gradient_only
from attacks.core.results import labels_or_unknown, unknown_labels
from attacks.core.tolerances import EXACT, LEAST
from fedsim.core.layer_calls import layer_inputs, layer_outputs
from fedsim.core.masks import inject_masks, without_dropout
from fedsim.core.output_layer import output_layer
from fedsim.core.types import NO_LABEL, Masks, Observation

_CONDITION = 1e6  # of the equations beyond which two examples share one
_MOST_OUTPUTS = 1024  # of a whole batch where there is no output layer: a backward pass for each
_EQUATIONS = 16  # weights for each of these outputs, from the last one on
_CANDIDATES = 16  # classes of an example that are tried, from the most negative residual
_CLEARLY = 0.1  # distance of the nearest residual, of that of the next
_ABOVE_ROUNDING = 1e-5  # of the largest residual
_STEPS = 12  # of Newton's method; most residuals are linear in the target, which takes one
_MATCHES = 1e-4  # of an example's largest residual: single precision leaves 1e-6 of it
_BESIDE = 1e-3  # of the outputs, where Newton's method begins
_FLAT = 1e-6  # slope of a residual by its target, of the largest, that counts as none


@dataclass(frozen=True)
class Targets:
    """Targets of a batch, in the order of its examples.

    Attributes:
        values: shape (B, *label_shape); NaN, or `NO_LABEL` for classes, where nothing is told.
        are_read: which are the client's up to rounding, the same shape.
        are_bounded: of which only the least distance from the output is told, since the loss is straight there.
    """

    values: Tensor
    are_read: Tensor
    are_bounded: Tensor

    @property
    def is_whole(self) -> bool:
        """Whether every target is read."""
        return bool(self.are_read.all())

    @property
    def in_words(self) -> str:
        """What was read, for a note."""
        read, bounded, every = int(self.are_read.sum()), int(self.are_bounded.sum()), self.are_read.numel()
        more = f", {bounded} are bounded: the loss is straight there" if bounded else ""
        return f"{read} of {every} targets are read from the output layer{more}"


class _Head(NamedTuple):
    name: str
    weight: Tensor  # (K, d), float64
    bias: Tensor | None
    gradient: Tensor  # (K, d)
    bias_gradient: Tensor | None


class _Residuals(NamedTuple):
    outputs: Tensor  # z, shape (B, ..., K), float64
    values: Tensor  # dL/dz, the same


class _UnfitTargets(Exception):
    """The client's loss does not take targets of this kind or shape."""


class LabelledGuess(NamedTuple):
    """Labels of a guess, shape (B, *label_shape), and what a reader of the record should know of them."""

    labels: Tensor
    notes: tuple[str, ...] = ()


Slope = Callable[[Tensor], Tensor]  # from targets (B, *label_shape) to dL/dz


def label_guess(
    observation: Observation, inputs: Tensor, masks: Masks | None, otherwise: Tensor | None = None
) -> LabelledGuess:
    """Return the labels of guessed inputs: read where every one is, else granted or inferred, else what is told.

    Args:
        observation: what the attack got.
        inputs: guessed examples, shape (B, *shape).
        masks: one per site, or None when some are unknown.
        otherwise: labels that the attack has in place of granted or inferred ones.
    """
    targets = read_targets(observation, inputs, masks)
    if targets is not None and targets.is_whole:
        return LabelledGuess(targets.values, (targets.in_words,))
    if otherwise is not None:
        return LabelledGuess(otherwise)
    if observation.task.label_kind == "class" or observation.labels is not None:
        return LabelledGuess(labels_or_unknown(observation, len(inputs)))
    if targets is None:
        return LabelledGuess(unknown_labels(observation, len(inputs)), ("no target is read from the gradient",))
    return LabelledGuess(targets.values, (targets.in_words,))


def read_targets(observation: Observation, inputs: Tensor, masks: Masks | None) -> Targets | None:
    """Return the targets of a batch whose inputs are known; None where the output layer does not tell them.

    It does not where its gradient is hidden, inexact or of several steps, where a batch has more examples than the
    layer has inputs, and where two examples have the same features.

    Args:
        observation: gives the model, the loss and the update.
        inputs: of the whole batch, shape (B, *shape), or any one example: of one, only the gradient is read.
        masks: one per site in front of the layer; None where they are not known, which one example does not need.
    """
    if not len(inputs) or one_gradient_only(observation) or inexact(observation) or _is_clipped(observation):
        return None
    model = copy.deepcopy(observation.model).double().requires_grad_(False)
    answered = _answered(observation, model, inputs, masks)
    if answered is None:
        return None
    try:
        targets = _targets_of(observation, *answered)
    except _UnfitTargets:
        return None
    if targets is None or not targets.values.is_floating_point():
        return targets
    return replace(targets, values=targets.values.to(next(observation.model.parameters()).dtype))


def _answered(
    observation: Observation, model: nn.Module, inputs: Tensor, masks: Masks | None
) -> tuple[_Residuals, Slope] | None:
    """Return outputs with their residuals, and what gives the residuals of other targets."""
    head = _head_of(observation)
    residuals = _of_one(head) if head is not None and len(inputs) == 1 else None
    if head is not None and residuals is None:
        residuals = _of_batch(observation, model, head, inputs, masks)
    if head is None or residuals is None:
        residuals = _of_all_layers(observation, model, inputs, masks)
        return None if residuals is None else (residuals, _slope(observation, residuals.outputs, _unchanged))
    behind = _behind(observation, model, head.name, len(inputs))
    whole = behind(residuals.outputs)
    if not torch.equal(whole.flatten(), residuals.outputs.flatten()):
        return residuals, _slope(observation, residuals.outputs, behind)
    shaped = _Residuals(whole, residuals.values.view(whole.shape))
    return shaped, _slope(observation, whole, _unchanged)


def _targets_of(observation: Observation, residuals: _Residuals, slope: Slope) -> Targets | None:
    """Return what residuals tell of targets of the task's kind."""
    kind, shape = observation.task.label_kind, observation.label_shape
    if kind == "numbers":
        return _numbers(residuals, slope, shape)
    if kind == "set" or (kind == "mask" and shape == residuals.values.shape[1:]):
        return _sets(residuals, slope, shape)
    return _classes(residuals, slope, shape)


def _is_clipped(observation: Observation) -> bool:
    """Say whether a known defense has shortened the gradient: by how much is not told."""
    bound = bound_of(observation)
    if bound is None:
        return False
    norm = sum(float(tensor.double().square().sum()) for tensor in observation.update.tensors.values()) ** 0.5
    return norm > (1.0 - EXACT) * bound


def _head_of(observation: Observation) -> _Head | None:
    """Return the output layer and its mean gradient; None where it is not shared."""
    model, tensors = observation.model, observation.update.tensors
    output = output_layer(model, observation.spec.classes) or output_layer(model)
    if output is None or f"{output[0]}.weight" not in tensors:
        return None
    name, layer = output
    factor, has_bias = gradient_weight(observation), layer.bias is not None and f"{name}.bias" in tensors
    return _Head(
        name,
        layer.weight.detach().double(),
        None if layer.bias is None else layer.bias.detach().double(),
        tensors[f"{name}.weight"].double() / factor,
        tensors[f"{name}.bias"].double() / factor if has_bias else None,
    )


def _of_one(head: _Head) -> _Residuals | None:
    """Return output and residual of a single example, from the gradient alone."""
    if head.bias_gradient is None or not bool(head.bias_gradient.any()):
        return None
    features = head.gradient.T @ head.bias_gradient / head.bias_gradient.square().sum()
    left = head.gradient - torch.outer(head.bias_gradient, features)
    if float(left.norm()) > EXACT * float(head.gradient.norm()):
        return None
    outputs = head.weight @ features
    return _Residuals((outputs if head.bias is None else outputs + head.bias)[None], head.bias_gradient[None])


@torch.no_grad()
def _of_batch(
    observation: Observation, model: nn.Module, head: _Head, inputs: Tensor, masks: Masks | None
) -> _Residuals | None:
    """Return outputs and residuals of a batch, by least squares."""
    if observation.sites and masks is None:
        return None
    with (
        _dropping(observation, masks),
        layer_inputs(model.train(), [head.name]) as seen,
        layer_outputs(model, [head.name]) as returned,
    ):
        model(inputs.double())
    if len(seen) != 1:
        return None
    (_, features), (_, outputs) = seen[0], returned[0]
    rows, gradient = features.flatten(0, -2), head.gradient
    if head.bias_gradient is not None:
        rows = torch.column_stack([rows, torch.ones(len(rows), dtype=rows.dtype)])
        gradient = torch.column_stack([gradient, head.bias_gradient])
    if len(rows) > rows.shape[1] or float(torch.linalg.cond(rows)) > _CONDITION:
        return None
    residuals = torch.linalg.lstsq(rows.T, gradient.T).solution
    if float((gradient - residuals.T @ rows).norm()) > EXACT * float(gradient.norm().clamp_min(LEAST)):
        return None
    return _Residuals(outputs, residuals.view(outputs.shape))


def _of_all_layers(
    observation: Observation, model: nn.Module, inputs: Tensor, masks: Masks | None
) -> _Residuals | None:
    """Return outputs and residuals of a batch by least squares on the gradients of the last weights."""
    if observation.sites and masks is None:
        return None
    shared = [(name, p) for name, p in model.named_parameters() if name in observation.update.tensors]
    with torch.enable_grad(), _dropping(observation, masks):
        for _, parameter in shared:
            parameter.requires_grad_()
        outputs = model.train()(inputs.double())
        if outputs.numel() > _MOST_OUTPUTS:
            return None
        chosen = _last(shared, _EQUATIONS * outputs.numel())
        rows = [_flat(torch.autograd.grad(one, list(chosen.values()), retain_graph=True, materialize_grads=True))
                for one in outputs.flatten().unbind()]  # fmt: skip
    model.requires_grad_(requires_grad=False)
    gradient = _flat([observation.update.tensors[name].double() for name in chosen]) / gradient_weight(observation)
    equations = torch.stack(rows, 1)
    if len(equations) < equations.shape[1]:
        return None
    frame, triangle = torch.linalg.qr(equations)
    if float(torch.linalg.cond(triangle)) > _CONDITION:
        return None
    residuals = torch.linalg.solve_triangular(triangle, (frame.T @ gradient)[:, None], upper=True)[:, 0]
    if float((gradient - equations @ residuals).norm()) > EXACT * float(gradient.norm().clamp_min(LEAST)):
        return None
    return _Residuals(outputs.detach(), residuals.view(outputs.shape))


def _last(parameters: list[tuple[str, nn.Parameter]], numbers: int) -> dict[str, nn.Parameter]:
    """Return the last parameters, until they hold as many numbers."""
    chosen, held = dict[str, nn.Parameter](), 0
    for name, parameter in reversed(parameters):
        chosen[name] = parameter
        held += parameter.numel()
        if held >= numbers:
            break
    return chosen


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def _dropping(observation: Observation, masks: Masks | None) -> AbstractContextManager[None]:
    return nullcontext() if masks is None else inject_masks(observation.sites, tuple(mask.double() for mask in masks))


def _behind(observation: Observation, model: nn.Module, name: str, examples: int) -> Callable[[Tensor], Tensor]:
    """Return what the model makes of a layer's outputs; what is in front does not matter, so it sees zeros."""
    blank = torch.zeros(examples, *observation.spec.shape, dtype=torch.float64)
    model.eval()  # batch statistics of blank examples would not be defined

    def run(outputs: Tensor) -> Tensor:
        with _returning(model.get_submodule(name), outputs), without_dropout():
            return model(blank)

    return run


def _unchanged(outputs: Tensor) -> Tensor:
    return outputs


def _slope(observation: Observation, outputs: Tensor, behind: Callable[[Tensor], Tensor]) -> Slope:
    """Return the function that gives dL/dz at outputs z for targets, differentiable by these.

    Args:
        observation: gives the loss.
        outputs: z.
        behind: what the model makes of them.
    """

    @torch.enable_grad()
    def slope(targets: Tensor) -> Tensor:
        given = outputs.detach().clone().requires_grad_()
        try:
            loss = observation.loss(behind(given), targets)
            (residuals,) = torch.autograd.grad(loss, given, create_graph=targets.requires_grad, materialize_grads=True)
        except (RuntimeError, ValueError, IndexError) as error:
            raise _UnfitTargets from error
        return residuals

    return slope


@contextmanager
def _returning(module: nn.Module, outputs: Tensor) -> Iterator[None]:
    """Have a module return these outputs, whatever it reads."""
    handle = module.register_forward_hook(lambda *_: outputs)
    try:
        yield
    finally:
        handle.remove()


def _classes(residuals: _Residuals, slope: Slope, shape: tuple[int, ...]) -> Targets | None:
    """Return the class of each example or pixel: the one whose residual points almost as the observed one does.

    Directions are compared, since weights of classes and labels that do not count change the size of all residuals.
    """
    values = residuals.values  # scores of classes stand in the second dimension
    if values.shape[2:] != shape or values.shape[1] < 2:  # noqa: PLR2004 - one class alone is no label
        return None
    order = values.argsort(1)[:, :_CANDIDATES]
    direction = F.normalize(values, dim=1)
    distances = torch.stack([(F.normalize(slope(one), dim=1) - direction).norm(dim=1) for one in order.unbind(1)], 1)
    near, sizes = distances.sort(1), values.norm(dim=1)
    labels = order.gather(1, near.indices[:, :1])[:, 0]
    are_read = (near.values[:, 0] <= _CLEARLY * near.values[:, 1]) & (sizes > _ABOVE_ROUNDING * sizes.max())
    return Targets(labels.where(are_read, NO_LABEL), are_read, torch.zeros_like(are_read))


def _sets(residuals: _Residuals, slope: Slope, shape: tuple[int, ...]) -> Targets | None:
    """Return for each output whether its residual is that of 1 or of 0."""
    values, blank = residuals.values, torch.zeros(len(residuals.values), *shape, dtype=torch.float64)
    if blank.numel() != values.numel():
        return None
    if_zero, if_one = ((slope(blank + value) - values).abs().view(blank.shape) for value in (0.0, 1.0))
    are_read = torch.minimum(if_zero, if_one) <= _CLEARLY * torch.maximum(if_zero, if_one)
    are_read &= torch.maximum(if_zero, if_one) > 0
    return Targets((if_one < if_zero).double().where(are_read, torch.nan), are_read, torch.zeros_like(are_read))


def _numbers(residuals: _Residuals, slope: Slope, shape: tuple[int, ...]) -> Targets:
    """Return the numbers whose residuals are the observed ones, by Newton's method from the outputs."""
    outputs, values = residuals
    start = torch.zeros(len(outputs), *shape, dtype=torch.float64)
    if outputs.numel() == start.numel():  # not at the outputs themselves: an absolute value has no slope there
        start = outputs.reshape(start.shape) + _BESIDE * outputs.abs().amax().clamp_min(LEAST)
    targets = start
    depends = is_determined = torch.zeros(())
    for _ in range(_STEPS):
        targets = targets.detach().requires_grad_()
        now = slope(targets)
        slopes, wanted = _slopes_by_target(now, targets), _by_example(values - now.detach())
        # Where the loss is straight there is no slope; what an earlier step saw counts.
        inverse, is_any = torch.linalg.pinv(slopes, rtol=_FLAT), slopes.abs() > _FLAT * slopes.abs().amax()
        depends, is_determined = depends + is_any, is_determined + _are_determined(inverse @ slopes)
        step = inverse @ wanted[:, :, None]
        targets = (targets + step.view(targets.shape)).detach()
        if float(step.abs().max()) <= EXACT**2 * float(targets.abs().max().clamp_min(1.0)):
            break
    sizes = _by_example(values).abs().amax(1, keepdim=True)
    misses = _by_example(slope(targets) - values).abs() > _MATCHES * sizes
    are_told = ((is_determined > 0) & ~((depends > 0) & misses[:, :, None]).any(1)).view(targets.shape)
    are_flat = _are_flat(slope, targets, outputs)
    return Targets(targets.where(are_told, torch.nan), are_told & ~are_flat, are_told & are_flat)


def _are_determined(resolution: Tensor) -> Tensor:
    """Say which targets residuals alone decide, from the products of slopes and their inverses (B, D, D)."""
    return resolution.diagonal(dim1=1, dim2=2) > 1.0 - _MATCHES


def _slopes_by_target(residuals: Tensor, targets: Tensor) -> Tensor:
    """Return how each residual moves with each target of its own example, shape (B, residuals, targets)."""
    columns = _by_example(residuals).sum(0).unbind()
    rows = [
        torch.autograd.grad(column, targets, retain_graph=True, materialize_grads=True, allow_unused=True)[0]
        if column.requires_grad
        else torch.zeros_like(targets)
        for column in columns
    ]
    return torch.stack([_by_example(row.detach()) for row in rows], 1)


def _by_example(values: Tensor) -> Tensor:
    """Return values of each example in a row, shape (B, all)."""
    return values.reshape(len(values), -1)


def _are_flat(slope: Slope, targets: Tensor, outputs: Tensor) -> Tensor:
    """Say of which targets a larger distance from the output would leave the same residual, shape as the targets."""
    if outputs.numel() != targets.numel():
        return torch.zeros_like(targets, dtype=torch.bool)
    distance = targets - outputs.reshape(targets.shape)
    moved = (slope(targets + 0.5 * distance) - slope(targets)).reshape(targets.shape).abs()
    linear = slope(targets).reshape(targets.shape).abs()
    return (moved <= _MATCHES * linear) & (distance != 0)
