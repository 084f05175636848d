"""Key-value cache of language models, so that no token is processed twice."""

from fedsim.core.nets.kv_cache.cache import DecodingCache
from fedsim.core.nets.kv_cache.draft import Draft
from fedsim.core.nets.kv_cache.incremental import IncrementalForward
from fedsim.core.nets.kv_cache.key_values import KVCache
from fedsim.core.nets.kv_cache.stack import Layered, LayerStack, stack_of
from fedsim.core.nets.kv_cache.whole_texts import whole_texts

__all__ = [
    "DecodingCache",
    "Draft",
    "IncrementalForward",
    "KVCache",
    "LayerStack",
    "Layered",
    "stack_of",
    "whole_texts",
]
