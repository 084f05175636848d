"""Code of critics of what a decoder writes: how much a text is worth, and what its beginnings promise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

from fedsim.core.errors import FedsimError
from fedsim.core.types import Tokenizer

_CUT = "\ufffd"  # what a tokenizer returns for bytes that are no sign yet


class Critic(Protocol):
    """What the tokens behind a prompt are worth."""

    def log_worth(self, tokens: Sequence[int], *, is_whole: bool) -> float:
        """Return ln of a worth of at least 0: of a whole text its own, of a beginning what it promises."""
        ...


class Indifferent:
    """Takes all texts for equally good."""

    def log_worth(self, tokens: Sequence[int], *, is_whole: bool) -> float:
        """Return 0."""
        return 0.0


class CriticOfText:
    """A critic that is a Python function: ``worth(text, is_whole) -> float``.

    Args:
        name: of the function, for messages.
        function: what says how much a text is worth.
        tokenizer: of the model.
    """

    def __init__(self, name: str, function: Callable[[str, bool], float], tokenizer: Tokenizer) -> None:
        self._name, self._function, self._tokenizer = name, function, tokenizer

    def log_worth(self, tokens: Sequence[int], *, is_whole: bool) -> float:
        """Return ln of what the function says of the text.

        Raises:
            FedsimError: it says no number of at least 0.
        """
        text = self._tokenizer.decode(tokens).removesuffix(_CUT)
        worth = float(self._function(text, is_whole))
        if not 0 <= worth < math.inf:
            raise FedsimError(
                f"critic: '{self._name}' says that the text {text!r} is worth {worth}: expected a number of at least 0."
            )
        return math.log(worth) if worth else -math.inf
