"""Prompts that decoders go on from."""

from fedsim.core.types import Limits
from tests.components.generating import prompts

ASKED = prompts([1, 2, 3, 4], [5, 6], [7], [8, 9, 10, 11, 12, 13])
LONG = Limits(max_new_tokens=20)
