"""Key-value cache of language models, so that no token is processed twice."""

from fedsim.core.past.draft import Draft
from fedsim.core.past.key_values import KeyValues
from fedsim.core.past.past import Past
from fedsim.core.past.reading import Reading
from fedsim.core.past.stack import Layered, LayerStack, stack_of
from fedsim.core.past.whole_texts import whole_texts

__all__ = ["Draft", "KeyValues", "LayerStack", "Layered", "Past", "Reading", "stack_of", "whole_texts"]
