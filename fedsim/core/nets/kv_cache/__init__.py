"""Key-value cache of language models, so that no token is processed twice."""

from fedsim.core.nets.kv_cache.cache import DecodingCache
from fedsim.core.nets.kv_cache.draft import Draft
from fedsim.core.nets.kv_cache.incremental import Reading
from fedsim.core.nets.kv_cache.key_values import KeyValues
from fedsim.core.nets.kv_cache.stack import Layered, LayerStack, stack_of
from fedsim.core.nets.kv_cache.whole_texts import whole_texts

__all__ = ["DecodingCache", "Draft", "KeyValues", "LayerStack", "Layered", "Reading", "stack_of", "whole_texts"]
