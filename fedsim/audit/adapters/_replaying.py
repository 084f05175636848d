"""Extraction of the loss from a third-party training step that calls a model first.

The step runs with given scores in place of the model's output, which yields a loss of scores and labels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from fedsim.core.errors import FedsimError
from fedsim.core.types import Loss

_CLOSE = 1e-4  # relative tolerance; both compute in float32, in another order


def check_same(loss: Loss, scores: Tensor, labels: Tensor, whole: Callable[[], Tensor], label: str) -> None:
    """Check on a batch that a loss of scores and labels equals the loss of the whole step.

    Args:
        loss: loss of scores and labels.
        scores: the model's output on the batch, of any shape that `loss` accepts.
        labels: labels of the batch.
        whole: runs the unchanged step with its model on the same batch.
        label: owner of the step, for the message.

    Raises:
        FedsimError: the step's loss differs, so it depends on more than scores and labels.
    """
    with torch.no_grad():
        replayed, actual = float(loss(scores, labels)), float(whole())
    if abs(replayed - actual) > _CLOSE * max(1.0, abs(actual)):
        raise FedsimError(
            f"the loss of {label} is {actual:.5g} on the first batch, but its scores and labels alone give "
            f"{replayed:.5g}: it depends on more. Return (model, loss, loader), with the loss as a function of scores "
            "and labels."
        )


def called_modules(run: Callable[[], object]) -> list[nn.Module]:
    """Return the modules with trainable parameters that a function calls directly, each once, in call order."""
    known: list[nn.Module] = []
    depth = 0

    def enter(module: nn.Module, _inputs: Any) -> None:
        nonlocal depth
        depth += 1
        is_model = depth == 1 and any(p.requires_grad for p in module.parameters())
        if is_model and not any(module is known_module for known_module in known):
            known.append(module)

    def leave(_module: nn.Module, _inputs: Any, _output: Any) -> None:
        nonlocal depth
        depth -= 1

    hooks = (register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True))
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return known
