"""Observation of a client's own training loop: its batches, loss and optimizer.

The loop is not changed. Hooks observe module calls, cross-entropy calls and optimizer steps of torch. A loop without
these cannot be observed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook
from torch.overrides import TorchFunctionMode

from fedsim.core.foreign import pytorch
from fedsim.core.types import Batch, Loss

_LOSSES = (F.cross_entropy, F.nll_loss)


@dataclass
class WatchedClient:
    """Observed training of a client in a round.

    Attributes:
        model: a copy from before the first step; None if nothing trained.
        steps: examples of every optimizer step.
        losses: losses with their settings; only the first is kept.
        optimizer: class name of the optimizer.
        learning_rate: learning rate of its first group.
        not_seen: why the loop cannot be observed, as the end of a sentence.
    """

    model: nn.Module | None = None
    steps: list[Batch] = field(default_factory=list[Batch])
    losses: list[Loss] = field(default_factory=list[Loss])
    optimizer: str = ""
    learning_rate: float = 0.0
    not_seen: str = ""
    _inputs: list[Tensor] = field(default_factory=list[Tensor])
    _labels: list[Tensor] = field(default_factory=list[Tensor])
    _scores: Any = None
    _depth: int = 0

    def enter(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Record the training inputs of the outermost module."""
        self._depth += 1
        if self._depth > 1 or not module.training or not torch.is_grad_enabled() or isinstance(module, pytorch.Loss):
            return
        if not inputs or not isinstance(inputs[0], Tensor):
            self.not_seen = "it calls its model without a tensor as first argument"
            return
        if self.model is None:
            self.model = copy.deepcopy(module)
        self._inputs.append(inputs[0].detach().clone())

    def leave(self, module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> None:
        """Record the scores of the outermost module."""
        self._depth -= 1
        if self._depth == 0 and not isinstance(module, pytorch.Loss):
            self._scores = output

    def judge(self, function: Any, arguments: tuple[Any, ...], settings: dict[str, Any]) -> None:
        """Record the labels of a loss call on these scores."""
        if not torch.is_grad_enabled() or len(self._labels) >= len(self._inputs):
            return
        known = dict(zip(("input", "target"), arguments, strict=False)) | settings
        if known["input"] is not self._scores:
            self.not_seen = "its loss does not depend on its model's output"
        self._labels.append(cast("Tensor", known["target"]).detach().clone())
        keywords = {name: value for name, value in settings.items() if name not in ("input", "target")}
        if not self.losses:
            self.losses.append(partial(function, **keywords))

    def step(self, optimizer: Optimizer, _arguments: Any, _settings: Any) -> None:
        """Assign the batches since the previous optimizer step to this step."""
        if not self._inputs or len(self._inputs) != len(self._labels):
            self.not_seen = self.not_seen or "it trains with a loss other than cross-entropy"
            return
        self.steps.append(Batch(torch.cat(self._inputs).cpu().float(), torch.cat(self._labels).cpu().long()))
        self.optimizer, self.learning_rate = type(optimizer).__name__, float(optimizer.param_groups[0]["lr"])
        self._inputs, self._labels = [], []


class _LossCalls(TorchFunctionMode):
    """Intercepts loss calls, by a module or as a function."""

    def __init__(self, client: WatchedClient) -> None:
        super().__init__()
        self._client = client

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _LOSSES:
            self._client.judge(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


@contextmanager
def watch_training() -> Iterator[WatchedClient]:
    """Observe all training inside the block as that of a single client."""
    client = WatchedClient()
    with ExitStack() as hooks:
        for hook in (
            register_module_forward_pre_hook(client.enter),
            register_module_forward_hook(client.leave, always_call=True),
            register_optimizer_step_post_hook(client.step),
        ):
            hooks.callback(hook.remove)
        hooks.enter_context(_LossCalls(client))
        yield client
