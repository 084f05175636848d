"""Sums of clipped per-example gradients: sum over i of g_i min(1, C / ||g_i||), by Opacus' hooks, on a borrowed model.

Paper: Abadi et al. 2016, arXiv 1607.00133, algorithm 1; ghost norms: Li et al. 2022, arXiv 2110.05679. The norm runs
over all parameters jointly, scalars included. A gradient that is not finite counts as zero, for it could bound nothing.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fedsim import seeding
from fedsim.errors import FedsimError, told
from fedsim.losses import cross_entropy, per_example
from fedsim.masks import dropout_sites, kept_masks, without_dropout
from fedsim.types import Batch

Mode = Literal["hooks", "functorch", "ghost"]
_GHOSTS = (nn.Linear, nn.Embedding)  # layers whose gradients' norms Opacus knows without the gradients
_SMALLEST_NORM = 1e-30
_ROUNDING = 1e-6  # of the probe in double precision, relative to the clipping norm


def cheapest(model: nn.Module) -> Mode:
    """Return how to clip: ghost norms, where only dense layers and embeddings have matrices, else stored gradients.

    Ghost norms take a second backward pass instead of a gradient for each example; dense layers and embeddings gain
    from it, small convolutions do not. Vectors, as of norms, are stored for each example either way.
    """
    owners = [module for module in model.modules() if _trained(module)]
    ties = len(list(model.named_parameters(remove_duplicate=False))) - len(list(model.parameters()))
    is_cheap = all(type(m) in _GHOSTS or all(p.dim() <= 1 for p in _trained(m)) for m in owners)
    return "ghost" if is_cheap and not ties else "hooks"


def clipped_sum(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], losses: Callable[[], Tensor], clip: float, mode: Mode
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return each example's loss, shape (B,), and the sum of the examples' clipped gradients, by parameter.

    Args:
        model: in training mode; hooks are attached for this call and removed, and nothing is left behind.
        parameters: those to differentiate, by name: all that the model trains.
        losses: runs the model on a batch that is not empty and returns each example's loss, shape (B,).
        clip: largest Euclidean norm of an example's gradient.
        mode: hooks and functorch store every example's gradient, ghost its norm alone.

    Raises:
        FedsimError: an example's gradient is not finite, and the mode is ghost, which cannot leave it out.
    """
    with _attached(model, mode) as hooks:
        each = losses()
        total = _ghost_sum(hooks, parameters, each, clip) if mode == "ghost" else _stored_sum(parameters, each, clip)
    return each.detach(), total


def why_inseparable(model: nn.Module, batch: Batch, mode: Mode) -> str | None:
    """Return why the gradient of one example cannot be told from those of the others, or None when it can.

    The sum of clipped gradients of a batch is compared to the sum over its examples alone, before and after one of them
    has changed: any layer that mixes the examples of a batch, and any gradient that the hooks miss, shows. The model
    stays as it is: a copy is probed.

    Args:
        model: in training mode.
        batch: of at least three examples; the last one takes the place of the first.
        mode: as for `clipped_sum`.
    """
    probed = copy.deepcopy(model).double()
    before = {name: buffer.clone() for name, buffer in probed.named_buffers()}
    numbers = batch.inputs.double() if batch.inputs.is_floating_point() else batch.inputs
    inputs, labels, other = numbers[:-1], batch.labels[:-1], numbers[-1:]
    changed = torch.cat((other + 5.0 if other.is_floating_point() else other, inputs[1:]))
    try:
        with seeding.contained(0):
            found = next((why for x in (inputs, changed) if (why := _why_not_a_sum(probed, x, labels, mode))), None)
            if found is None and dropout_sites(probed, inputs.shape[1:], len(inputs), inputs.dtype):
                found = _why_masks_differ(probed, inputs, labels, mode)
    except Exception as error:
        found = f"the model cannot be differentiated for each example (mode '{mode}'): {told(error)}"
    moved = [n for n, b in probed.named_buffers() if b.is_floating_point() and not torch.equal(b, before[n])]
    if found is None and moved:
        return (
            f"training changes the buffer '{moved[0]}', which no noise protects. Use layers without running statistics"
        )
    return found


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters(recurse=False) if p.requires_grad]


def _why_not_a_sum(model: nn.Module, inputs: Tensor, labels: Tensor, mode: Mode) -> str | None:
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}

    def alone(example: int) -> Tensor:
        one = slice(example, example + 1)
        loss = cross_entropy(model(inputs[one]), labels[one])
        tensors = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
        return torch.cat([t.flatten() for t in tensors])

    def losses() -> Tensor:
        return per_example(model(inputs), labels)

    with without_dropout():
        single = torch.stack([alone(example) for example in range(len(inputs))])
        norms = single.norm(dim=1)
        clip = float(norms.min()) / 2 or 1.0  # so that every gradient is clipped, however long it is
        _, total = clipped_sum(model, parameters, losses, clip, mode)
    together = torch.cat([t.flatten() for t in total.values()])
    expected = (clip / norms.clamp_min(clip)) @ single
    difference = float(torch.dist(together, expected)) / clip
    if difference <= _ROUNDING:
        return None
    return (
        "a layer mixes the examples of a batch, or uses parameters that are not its own: clipped gradients are off by "
        f"{difference:.1g} of the clipping norm (mode '{mode}'). Use group or layer normalisation, and layers that "
        "Opacus knows"
    )


def _why_masks_differ(model: nn.Module, inputs: Tensor, labels: Tensor, mode: Mode) -> str | None:
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    drawn_forward = 0

    def losses() -> Tensor:
        nonlocal drawn_forward
        each = per_example(model(inputs), labels)
        drawn_forward = len(masks)
        return each

    with kept_masks(torch.Generator().manual_seed(0)) as masks:
        clipped_sum(model, parameters, losses, 1.0, mode)
    if len(masks) == drawn_forward:
        return None
    return (
        "the model drops out inside a module that has parameters of its own, whose gradients would be those of other "
        f"masks (mode '{mode}'). Move the dropout into a module without parameters"
    )


def _stored_sum(parameters: Mapping[str, nn.Parameter], each: Tensor, clip: float) -> dict[str, Tensor]:
    torch.autograd.grad(each.sum(), list(parameters.values()), allow_unused=True)
    stored = {name: s for name, p in parameters.items() if (s := getattr(p, "grad_sample", None)) is not None}
    norms = torch.stack([gradient.reshape(len(each), -1).norm(dim=1) for gradient in stored.values()]).norm(dim=0)
    usable = torch.isfinite(norms)
    if not bool(usable.all()):  # else as it is: a selection would copy every gradient
        norms, stored = norms[usable], {name: gradient[usable] for name, gradient in stored.items()}
    factors = (clip / norms.clamp_min(_SMALLEST_NORM)).clamp_max(1.0)
    return {
        name: torch.tensordot(factors, stored[name], dims=1) if name in stored else torch.zeros_like(p)
        for name, p in parameters.items()
    }


def _ghost_sum(hooks: Any, parameters: Mapping[str, nn.Parameter], each: Tensor, clip: float) -> dict[str, Tensor]:
    torch.autograd.grad(each.sum(), list(parameters.values()), allow_unused=True, retain_graph=True)
    squares = [norm.square() for p in parameters.values() if (norm := getattr(p, "_norm_sample", None)) is not None]
    norms = torch.stack(squares).sum(0).sqrt()
    if not bool(torch.isfinite(norms).all()):
        raise FedsimError(
            "the gradient of an example is not finite, and ghost clipping cannot leave out one example. Set mode = "
            "'hooks', which counts it as zero, or lower the learning rate."
        )
    hooks.disable_hooks()
    factors = (clip / norms.clamp_min(_SMALLEST_NORM)).clamp_max(1.0)
    tensors = torch.autograd.grad(
        (factors * each).sum(), list(parameters.values()), allow_unused=True, materialize_grads=True
    )
    return dict(zip(parameters, tensors, strict=True))


@contextmanager
def _attached(model: nn.Module, mode: Mode) -> Generator[Any]:
    """Attach Opacus' hooks, and take away afterwards whatever came to modules and parameters meanwhile."""
    from opacus.grad_sample import (  # noqa: PLC0415 - takes seconds to import
        GradSampleHooks,
        GradSampleHooksFastGradientClipping,
    )

    before = [(part, set(vars(part))) for part in (*model.modules(), *model.parameters())]
    # Not strict: that refuses any buffer, and what buffers do is probed.
    if mode == "ghost":
        hooks: Any = GradSampleHooksFastGradientClipping(model, loss_reduction="sum", strict=False)
    else:
        hooks = GradSampleHooks(model, loss_reduction="sum", strict=False, force_functorch=mode == "functorch")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Full backward hook is firing")  # the inputs need no gradient
            warnings.filterwarnings("ignore", "In .* autocast")  # Opacus takes token numbers for another precision
            yield hooks
    finally:
        hooks.cleanup()
        for part, names in before:
            for name in vars(part).keys() - names:
                delattr(part, name)
