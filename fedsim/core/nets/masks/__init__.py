"""Dropout masks of ordinary models: located, recorded and injected without special layers.

A forward pass calls dropout functions in a fixed order, whether from `nn.Dropout`, from `torch.nn.functional` or inside
an attention. The context managers below intercept these calls: ``h <- h * mask / (1 - p)``. Attention is computed with
an explicit softmax, because the fused kernels neither expose their mask nor have a second derivative.
"""

from fedsim.core.nets.masks.passes import (
    RecordedDropout,
    disable_dropout,
    dropout_sites,
    inject_masks,
    keep_masks,
    mask_not_batch_first,
    record_masks,
)
from fedsim.core.nets.masks.prefixes import KeptPrefixes, prefix_dropout, prefix_mask
from fedsim.core.nets.masks.sites import draw_masks, expected_mask, named_calls, rescaling_factor

__all__ = [
    "KeptPrefixes",
    "RecordedDropout",
    "disable_dropout",
    "draw_masks",
    "dropout_sites",
    "expected_mask",
    "inject_masks",
    "keep_masks",
    "mask_not_batch_first",
    "named_calls",
    "prefix_dropout",
    "prefix_mask",
    "record_masks",
    "rescaling_factor",
]
