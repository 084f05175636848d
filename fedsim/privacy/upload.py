"""An update that its client clips and adds noise to: u min(1, S / ||u||) + N(0, s^2 I)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from fedsim.core.hooks import NoiseAdder
from fedsim.core.nets.masks import disable_dropout
from fedsim.core.types import Tensors, Update


def disturb(update: Update, clip: float, deviation: float, add_noise: NoiseAdder) -> Update:
    """Return an update in which only clipped and noisy tensors depend on the client's data.

    Tensors are clipped jointly to norm `clip`. An update that is not finite counts as zero, so the server does not
    learn of it. Buffers are sent unchanged, with an example count of 1 and a loss of 0.

    Args:
        update: to protect.
        clip: largest norm.
        deviation: standard deviation of the noise on each coordinate.
        add_noise: adds it.
    """
    tensors = clip_jointly(update.tensors, clip)
    return replace(
        update,
        tensors={name: add_noise(t, deviation) for name, t in tensors.items()},
        buffers={name: torch.zeros_like(b) for name, b in update.buffers.items()},
        examples=1,
        loss=0.0,
    )


def clip_jointly(tensors: Tensors, clip: float) -> Tensors:
    """Return tensors with a joint Euclidean norm of at most `clip`; zeros if any entry is not finite."""
    norm = torch.stack([t.double().norm() for t in tensors.values()]).norm()
    if not bool(torch.isfinite(norm)):
        return {name: torch.zeros_like(t) for name, t in tensors.items()}
    factor = min(1.0, clip / max(float(norm), 1e-300))
    return {name: t * factor for name, t in tensors.items()}


def clip_with_derivative(tensors: Tensors, clip: float) -> dict[str, Tensor]:
    """Return finite tensors with a joint norm of at most `clip`, the factor with its derivative."""
    norm = torch.stack([t.norm() for t in tensors.values()]).norm()
    factor = (clip / norm.clamp_min(1e-300)).clamp_max(1.0)
    return {name: t * factor for name, t in tensors.items()}


def why_buffers_move(
    model: nn.Module, inputs: Tensor, is_allowed: Callable[[str], bool] = lambda _name: False
) -> str | None:
    """Return why a model has buffers that training changes, or None if it has none.

    Args:
        model: in training mode; it does not change.
        inputs: at least two examples, since batch normalisation cannot train on a single example.
        is_allowed: returns whether training may change the buffer of a name.
    """
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad(), disable_dropout():
        model(inputs)
        moved = [n for n, b in model.named_buffers() if b.is_floating_point() and not torch.equal(b, before[n])]
        for name, buffer in model.named_buffers():
            buffer.copy_(before[name])
    refused = [name for name in moved if not is_allowed(name)]
    if not refused:
        return None
    return (
        f"training changes the buffer '{refused[0]}', which would have to stay with the client. Use group or layer "
        "normalisation"
    )
