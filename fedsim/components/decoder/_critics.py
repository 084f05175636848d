"""Critics of generated text: non-negative potentials of whole texts and of prefixes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

from fedsim.core.errors import FedsimError
from fedsim.core.types import Tokenizer

_CUT = "\ufffd"  # a tokenizer's output for an incomplete UTF-8 character


class Critic(Protocol):
    """Assigns a non-negative weight to the tokens after a prompt."""

    def log_worth(self, tokens: Sequence[int], *, is_whole: bool) -> float:
        """Return the log weight (ln, possibly -inf) of a whole text, or the expected weight of a prefix."""
        ...


class Indifferent:
    """Assigns weight 1 to all texts."""

    def log_worth(self, tokens: Sequence[int], *, is_whole: bool) -> float:
        """Return 0."""
        return 0.0


class CriticOfText:
    """A critic given by a Python function ``worth(text, is_whole) -> float``.

    Args:
        name: name of the function, for messages.
        function: returns the weight of a text, at least 0.
        tokenizer: the model's tokenizer.
    """

    def __init__(self, name: str, function: Callable[[str, bool], float], tokenizer: Tokenizer) -> None:
        self._name, self._function, self._tokenizer = name, function, tokenizer

    def log_worth(self, tokens: Sequence[int], *, is_whole: bool) -> float:
        """Return ln of the function's value for the decoded text.

        Raises:
            FedsimError: the value is negative, infinite or NaN.
        """
        text = self._tokenizer.decode(tokens).removesuffix(_CUT)
        worth = float(self._function(text, is_whole))
        if not 0 <= worth < math.inf:
            raise FedsimError(
                f"critic: '{self._name}' says that the text {text!r} is worth {worth}: expected a number of at least 0."
            )
        return math.log(worth) if worth else -math.inf
