"""Expected processor seconds of a client's gradient, counted and not timed.

The order of `auto` depends on this estimate, so it must be the same on fast, slow and busy machines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry, sdpa_flop

from attacks.core.labels import examples_of
from attacks.core.layers import once_a_model, run
from fedsim.core.foreign.pytorch import TorchDispatchMode, flash_attention_on_cpu, tree_leaves
from fedsim.core.nets.masks import disable_dropout
from fedsim.core.types import Observation

# Seconds on a single core of an Intel Xeon, fitted to gradients of MLPs, convolutional networks and transformers.
_CALL = 1.5e-5
_OPERATION = 2.5e-11
_ENTRY = 4e-10
_EXAMPLES = 2  # of the counted pass: normalisation by batch statistics needs two
_OPERATIONS: Mapping[Any, Callable[..., int]] = {
    **flop_registry,
    flash_attention_on_cpu: sdpa_flop,
}


class GradientCost(NamedTuple):
    """Counts of a forward and a backward pass.

    Attributes:
        calls: tensor operations; they do not depend on the batch size.
        operations: floating-point operations of matrix products and convolutions, for each example.
        entries: entries of tensors read and written, for each example.
    """

    calls: int
    operations: float
    entries: float

    def seconds(self, examples: int) -> float:
        """Return the expected processor seconds of the gradient of a batch on a single core."""
        return _CALL * self.calls + examples * (_OPERATION * self.operations + _ENTRY * self.entries)


def gradient_seconds(observation: Observation, rows: int = 1) -> float:
    """Return the expected processor seconds of the gradients of so many guesses of the batch in one computation."""
    return gradient_cost(observation).seconds(rows * examples_of(observation))


@once_a_model
def gradient_cost(observation: Observation) -> GradientCost:
    """Return the counts of a gradient at inputs of zeros.

    If the model does not run on inputs alone, each weight counts as used once for each example.
    """
    parameters = [parameter for parameter in observation.model.parameters() if parameter.requires_grad]
    counter = _Counter()
    try:
        with torch.enable_grad(), disable_dropout(), counter:
            outputs = run(observation.model, _zeros(observation))
            torch.autograd.grad(outputs.sum(), parameters, allow_unused=True)
    except Exception:  # for example further inputs that are not granted
        weights = sum(parameter.numel() for parameter in parameters)
        return GradientCost(4 * len(parameters), 6.0 * weights, 3.0 * weights)
    return GradientCost(counter.calls, counter.operations / _EXAMPLES, counter.entries / _EXAMPLES)


def _zeros(observation: Observation) -> Tensor:
    like = next(observation.model.parameters())
    is_text = observation.task.modality == "text"
    dtype = torch.long if is_text else like.dtype
    return torch.zeros((_EXAMPLES, *observation.spec.shape), dtype=dtype, device=like.device)


class _Counter(TorchDispatchMode):
    """Counts tensor operations while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.operations, self.entries = 0, 0.0, 0.0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: otherwise the first call imports the compiler, which takes seconds."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        outputs = func(*args, **(kwargs or {}))
        self.calls += 1
        count = _OPERATIONS.get(func.overloadpacket)
        if count is not None:
            self.operations += count(*args, **(kwargs or {}), out_val=outputs)
        if not func.is_view:
            tensors = (leaf for leaf in tree_leaves((args, outputs)) if isinstance(leaf, Tensor))
            self.entries += sum(math.prod(tensor.shape) for tensor in tensors)
        return outputs
