"""Private names of torch. It documents list operations, one kernel call for all tensors, but exports them privately."""

# pyright: reportPrivateImportUsage=false, reportPrivateUsage=false
from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch import _foreach_add_ as foreach_add_
from torch import _foreach_addcmul_ as foreach_addcmul_
from torch import _foreach_copy_ as foreach_copy_
from torch import _foreach_div as foreach_div
from torch import _foreach_div_ as foreach_div_
from torch import _foreach_lerp_ as foreach_lerp_
from torch import _foreach_mul_ as foreach_mul_
from torch import _foreach_sqrt as foreach_sqrt
from torch import _foreach_sub_ as foreach_sub_
from torch import _fused_adam_ as fused_adam_
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.modules.dropout import _DropoutNd as Dropout
from torch.nn.modules.loss import _Loss as Loss
from torch.overrides import _get_current_function_mode_stack as function_modes
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = [
    "BatchNorm",
    "Dropout",
    "Loss",
    "TorchDispatchMode",
    "flash_attention_on_cpu",
    "foreach_add_",
    "foreach_addcmul_",
    "foreach_copy_",
    "foreach_div",
    "foreach_div_",
    "foreach_lerp_",
    "foreach_mul_",
    "foreach_sqrt",
    "foreach_sub_",
    "forward_hooks",
    "function_modes",
    "fused_adam_",
    "outside_transforms",
    "tree_leaves",
    "write_count",
]

flash_attention_on_cpu: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def forward_hooks(module: nn.Module) -> list[Callable[..., Any]]:
    """Return the forward hooks and forward pre-hooks of a module."""
    return [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]


def write_count(tensor: Tensor) -> int:
    """Return the number of in-place writes to a tensor, writes of equal values included."""
    return tensor._version


def outside_transforms() -> AbstractContextManager[object]:
    """Suspend `torch.func` transforms: tensors created inside have storage."""
    return torch._C._DisableFuncTorch()
